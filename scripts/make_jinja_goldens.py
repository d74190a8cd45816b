#!/usr/bin/env python3
"""Renders small templates with transformers' Jinja2 and keeps what comes out as expectations.

    pip install transformers jinja2
    python scripts/make_jinja_goldens.py            # writes tests/chats/expressions.json
    python scripts/make_jinja_goldens.py --check    # compares instead; exit code 1 if it differs

Each template of CASES is compiled and rendered as `apply_chat_template` does, with CONTEXT beside two messages.
The clock of `strftime_now` stands at midnight of 2024-07-26. Written with transformers 5.24.0 and Jinja2 3.1.6.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import make_chat_goldens as chats

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Yo\n"}]
CONTEXT = {
    "text": "Hello World", "blank": " \u001c\u200b x \u001f\n", "words": "a,b,,c", "accents": "Ünï ß ǆ", "quotes": "it's \"so\"",
    "lines": "one\r\ntwo\rthree\u2028four\n\n", "tags": "<b>&'\"</b>", "empty": "",
    "numbers": [3, 1, 2], "floats": [1.0, 2.5, 1e22, 1e-7, 0.1], "nothing": None, "yes": True, "no": False, "seven": 7,
    "minus": -7, "half": 2.5, "big": 12345678901234567890, "none_list": [],
    "record": {"b": 1, "A": "two", "items": [1, 2], "none": None, "in": {"deep": ["x", {"y": "z"}]}},
    "people": [{"name": "bob", "age": 30}, {"name": "Al", "age": 25}, {"name": "al", "age": 41}, {"name": "Cy"}],
    "nested": [["a", 1], ["b", 2]], "mixed": [1, "a", None, True, 2.5, [1], {"k": "v'"}],
}

# One list for each part of the dialect.
OUTPUT = """
{{ text }}|{{ seven }}|{{ half }}|{{ yes }}|{{ nothing }}|{{ missing }}|{{ big }}|{{ floats }}
{{ mixed }}|{{ record }}|{{ nested }}|{{ quotes }}|{{ [quotes, tags, blank, accents, lines] }}
{{ (1, 'a') }}|{{ (1,) }}|{{ () }}|{{ {} }}|{{ [] }}|{{ {'a': (1, 2)} }}
{{ 1, 2 }}|{{ 'a', }}|{{ 'a' 'b' "c" }}|{{ 1_000 }}|{{ 0x1F }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1e3 }}|{{ 1.5e-9 }}|{{ 12345678901234567890123 }}
{{ '\\n\\t\\x41\\u00e9\\101\\q\\\\' }}|{{ "it's" }}|{{ 'a\\'b' }}|{{ '{{ x }} {% y %} {# z #}' }}
{{ [none, None, true, True, false, False] }}|{{ missing.attr }}
{{ missing.attr.deeper }}
{{ missing['a']['b'] }}
{{ missing() }}
{{ text.nope }}|{{ seven.nope }}|{{ nothing.nope }}|{{ record.nope }}|{{ numbers[10] }}|{{ text[50] }}|{{ text['x'] }}
{{ nothing.nope.deeper }}
{{ record.items }}
{{ record.items is callable }}|{{ record['items'] }}|{{ record.keys is defined }}|{{ record.append is defined }}
{{ record.in.deep[1].y }}|{{ record['in']['deep'][0] }}|{{ nested[1][0] }}|{{ nested.0.1 }}|{{ numbers[-1] }}|{{ text[-1] }}
{{ numbers['a'] }}|{{ record[0] }}|{{ numbers[true] }}|{{ numbers[1.0] }}
{{ [1e16, 1e15, 123456789.123, 1e-4, 1e-5, -0.0, 1e300 * 1e10] }}
{{ '\u00ad\u200b\u2028\u00a0\ufeff\U0001f980\u0301\ue000' }}|{{ ['\u00ad\u200b\u2028\u00a0\ufeff\U0001f980\u0301\ue000\u007f\u0085'] }}
{{- 'a' -}}   b {{+ 'c' }}|{{ 'd' -}}
{{ [1, 2, [3, ['x']]]|string }}|{{ record ~ numbers }}|{{ numbers|join('-') }}|{{ mixed|join }}
""".strip().split("\n")
OPERATORS = """
{{ 1 + 2 }}|{{ 1 + 2.5 }}|{{ true + 1 }}|{{ 'a' + 'b' }}|{{ [1] + [2] }}|{{ (1,) + (2,) }}|{{ 1 - 3 }}
{{ 'a' + 1 }}
{{ [1] + (2,) }}
{{ 'a' + missing }}
{{ missing + 'a' }}
{{ none + 1 }}
{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 // -2 }}|{{ 7.5 // 2 }}|{{ -7.5 // 2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7.5 % 2 }}|{{ -7.5 % 2 }}
{{ 7 / 2 }}|{{ 6 / 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ -2 ** 2 }}|{{ 2 ** 3 ** 2 }}|{{ 2.0 ** 2 }}|{{ 4 ** 0.5 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 0 ** -1 }}
{{ 2 ** 64 }}|{{ 2 ** 100 }}|{{ big * 2 }}|{{ big + big }}|{{ -big }}
{{ 2 ** 200 }}
{{ 'ab' * 3 }}|{{ 3 * 'ab' }}|{{ 'ab' * -1 }}|{{ [1, 2] * 2 }}|{{ (1,) * 3 }}|{{ 'x' * true }}
{{ 'a' * 2.0 }}
{{ 'a' * 'b' }}
{{ -seven }}|{{ +seven }}|{{ -half }}|{{ - - 3 }}|{{ +true }}|{{ -true }}|{{ -numbers[0] }}|{{ -seven|abs }}|{{ (-seven)|abs }}|{{ 2 - -1 }}
{{ -text }}
{{ -missing }}
{{ 1 ~ 2 }}|{{ 'a' ~ none ~ true ~ 1.0 ~ missing ~ [1, 'b'] }}|{{ 1 + 2 ~ 3 + 4 }}|{{ 2 * 3 ~ 4 }}
{{ 1 < 2 }}|{{ 1 < 1.5 }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ (1,) <= (1, 0) }}|{{ true > false }}|{{ 2 >= 2 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ missing > 1 }}
{{ [1] < (2,) }}
{{ {} < {} }}
{{ 1 < 2 < 3 }}|{{ 3 > 2 > 2 }}|{{ 1 == 1 == 1 }}|{{ 1 < 3 != 4 }}|{{ 1 in [1] == true }}
{{ 1 == true }}|{{ 1 == 1.0 }}|{{ '1' == 1 }}|{{ none == missing }}|{{ missing == missing }}|{{ [1] == (1,) }}|{{ [1, 'a'] == [1.0, 'a'] }}|{{ {'a': 1} == {'a': 1.0} }}|{{ 'a' != 'b' }}|{{ none == false }}|{{ '' == false }}|{{ 0 == false }}
{{ 'ell' in text }}|{{ '' in text }}|{{ 'x' not in text }}|{{ 1 in numbers }}|{{ '1' in numbers }}|{{ 'b' in record }}|{{ 1 in record }}|{{ 'x' in missing }}|{{ missing in [1] }}|{{ none in [none] }}|{{ true in [1] }}
{{ 1 in text }}
{{ none in text }}
{{ 1 in 5 }}
{{ 1 in none }}
{{ not 1 == 2 }}|{{ not missing }}|{{ not not 'a' }}|{{ 'a' or 'b' }}|{{ '' or none or 0 }}|{{ 1 and 'x' }}|{{ none and 1 }}|{{ missing or 'd' }}|{{ not 'a' in 'abc' }}
{{ 'a' if true else 'b' }}|{{ 'a' if false }}|{{ 'a' if '' else 'b' if [] else 'c' }}|{{ ('x' if no) is defined }}|{{ 1 if 1 if 0 else 2 }}
{{ ('x' if no) + 'a' }}
{{ text[1:3] }}|{{ text[:-1] }}|{{ text[::-1] }}|{{ text[::2] }}|{{ text[5:1:-1] }}|{{ text[-3:] }}|{{ text[10:100] }}|{{ accents[1:3] }}|{{ accents[::-1] }}
{{ numbers[1:] }}|{{ numbers[::-1] }}|{{ numbers[-2:] }}|{{ numbers[5:] }}|{{ numbers[:0] }}|{{ numbers[-100:100] }}|{{ (1, 2, 3)[1:] }}|{{ range(10)[2:5] }}|{{ numbers[none:none] }}|{{ numbers[2::-2] }}|{{ numbers[-1:-3:-1] }}
{{ numbers[::0] }}
{{ missing[1:] }}
{{ nothing[1:] }}
{{ seven[1:] }}
{{ record[1:] }}
{{ numbers['a':] }}
{{ 1 if 2 else 3 + 4 }}|{{ 1 + 2 * 3 - 4 / 2 }}|{{ (1 + 2) * 3 }}|{{ 10 - 2 - 3 }}|{{ 2 * 3 % 4 }}|{{ 100 // 7 // 2 }}
{{ not true and false }}|{{ not (true and false) }}|{{ true or false and false }}|{{ 1 + 1 == 2 and 3 > 2 }}
{{ 'a' 'b' + 'c' }}|{{ 'x' ~ 1 if yes else 2 }}
{{ ['a'] + ['b'] if yes else [] }}|{{ [1, 2,] }}|{{ {'a': 1,} }}|{{ {1: 2, none: 3, 1.5: 4} }}|{{ {'a': 1, 'a': 2} }}
{{ nothing.x is defined }}|{{ missing is defined }}|{{ record.x is not defined }}|{{ missing.x is defined }}
""".strip().split("\n")
FORMATS = """
{{ '%s and %s' % ('a', 1) }}|{{ '%s' % 'x' }}|{{ '%d' % 3.9 }}|{{ '%5d|%-5d|%05d|%+d|% d' % (42, 42, 42, 42, 42) }}|{{ '%%' % () }}
{{ '%.2f %f %e %g %G %.3g %10.2f' % (1.005, 2, 12345.678, 0.00001, 1e20, 1234.5, 3.14159) }}|{{ '%x %X %o %#x' % (255, 255, 8, 255) }}|{{ '%c%c' % (65, 'b') }}|{{ '%r %s %r' % ('a\\'b', [1, 'x'], none) }}
{{ '%(a)s-%(b)03d' % {'a': 'x', 'b': 7} }}|{{ '%5s|%-5s|%.2s' % ('ab', 'ab', 'abc') }}|{{ '%*d' % (5, 42) }}|{{ '%s' % none }}|{{ '%s' % missing }}|{{ '%s' % [1, 2] }}|{{ 'x' % [1] }}|{{ 'x' % {} }}
{{ '%s' % () }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'x' }}
{{ '%y' % 1 }}
{{ '%(a)s' % 1 }}
{{ '%(z)s' % {'a': 1} }}
{{ '%' % 1 }}
{{ 7 % 'x' }}
{{ '%s %s'|format('a', 1) }}|{{ '%(k)s'|format(k='v') }}|{{ '%05.1f'|format(2.25) }}
{{ '{} {}'.format(1, 'a') }}|{{ '{1} {0}'.format(1, 2) }}|{{ '{a}{b}'.format(a=1, b='x') }}|{{ '{{}} {}'.format(1) }}|{{ '{0.name} {0[name]}'.format(record) }}
{{ '{0[b]} {1[0]} {1[1]}'.format(record, numbers) }}|{{ '{!r} {!s}'.format('a', 'b') }}|{{ '{:>6}|{:<6}|{:^6}|{:*^7}'.format('ab', 'ab', 'ab', 'ab') }}
{{ '{:d} {:5d} {:05d} {:+d} {:,} {:x} {:#x} {:b} {:e} {:.2f} {:g} {:%} {:.1%}'.format(1, 2, 3, 4, 1234567, 255, 255, 5, 1234.5, 2.345, 1e-10, 0.5, 0.256) }}
{{ '{:,.2f} {:_} {:<8.3f}|{:=+8d}'.format(1234567.891, 1234567, 3.14159, 42) }}|{{ '{:.3}'.format('abcdef') }}|{{ '{:{}}|'.format('a', 4) }}|{{ '{}'.format([1, 'a']) }}|{{ '{}'.format(1.0) }}|{{ '{:.3}'.format(3.14159) }}|{{ '{:10}|'.format(3) }}|{{ '{:10}|'.format('a') }}
{{ '{}'.format() }}
{{ '{} {0}'.format(1, 2) }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{:d}'.format('a') }}
{{ '{:d}'.format(1.5) }}
{{ '{x}'.format() }}
{{ '{:5}'.format(none) }}
{{ '{:5}'.format([1]) }}
{{ '{:q}'.format(1) }}
""".strip().split("\n")
METHODS = """
{{ blank.strip()|length }}|{{ blank.lstrip()|length }}|{{ blank.rstrip()|length }}|{{ blank.split()|length }}|{{ 'xxaxx'.strip('x') }}|{{ 'abcba'.strip('ab') }}|{{ ' a '.strip(none) }}|{{ blank|trim|length }}|{{ 'xax'|trim('x') }}
{{ words.split(',') }}|{{ words.split(',', 1) }}|{{ words.rsplit(',', 1) }}|{{ words.rsplit(',') }}|{{ ' a  b c '.split() }}|{{ ' a  b c '.split(none, 1) }}|{{ ' a  b c '.rsplit(none, 1) }}|{{ ' a  b c '.split(' ') }}|{{ words.split(sep=',', maxsplit=2) }}|{{ ''.split() }}|{{ ''.split(',') }}|{{ 'a,b'.split(',', -1) }}|{{ 'a,b'.split(',', 0) }}
{{ text.split('') }}
{{ text.split(1) }}
{{ lines.splitlines() }}|{{ lines.splitlines(true) }}|{{ 'a\\n'.splitlines() }}|{{ ''.splitlines() }}|{{ lines.splitlines(keepends=true) }}
{{ words.partition(',') }}|{{ words.rpartition(',') }}|{{ words.partition('x') }}|{{ words.rpartition('x') }}
{{ text.removeprefix('He') }}|{{ text.removesuffix('ld') }}|{{ text.removeprefix('x') }}|{{ text.replace('l', 'L') }}|{{ text.replace('l', 'L', 2) }}|{{ 'ab'.replace('', '-') }}|{{ 'aaa'.replace('a', 'b', -1) }}|{{ text.replace(old='o', new='0') }}
{{ text.upper() }}|{{ text.lower() }}|{{ text.title() }}|{{ "they're bill's 3d".title() }}|{{ 'hELLO wORLD'.capitalize() }}|{{ text.swapcase() }}|{{ accents.upper() }}|{{ accents.lower() }}|{{ accents.title() }}|{{ accents.capitalize() }}|{{ 'ß'.upper() }}|{{ 'STRASSE'.casefold() }}
{{ text.startswith('He') }}|{{ text.startswith(('x', 'H')) }}|{{ text.endswith('ld') }}|{{ text.endswith(('a', 'd')) }}|{{ text.startswith('l', 2) }}|{{ text.startswith('') }}|{{ text.startswith('W', 6, 7) }}|{{ text.endswith('lo', 0, 5) }}
{{ text.startswith(['H']) }}
{{ text.startswith(none) }}
{{ text.find('l') }}|{{ text.rfind('l') }}|{{ text.find('z') }}|{{ text.find('l', 4) }}|{{ text.index('W') }}|{{ text.rindex('o') }}|{{ text.count('l') }}|{{ text.count('') }}|{{ accents.find('ß') }}|{{ text.count('l', 0, 4) }}
{{ text.index('z') }}
{{ '123'.isdigit() }}|{{ '12a'.isdigit() }}|{{ '²'.isdigit() }}|{{ '½'.isdigit() }}|{{ '½'.isnumeric() }}|{{ '²'.isdecimal() }}|{{ '٣'.isdecimal() }}|{{ ''.isdigit() }}|{{ '-1'.isdigit() }}
{{ 'abc'.isalpha() }}|{{ 'ab1'.isalnum() }}|{{ 'é'.isascii() }}|{{ 'ab'.islower() }}|{{ 'AB1'.isupper() }}|{{ '1'.isupper() }}|{{ ' \\t'.isspace() }}|{{ ''.isspace() }}|{{ '\u200b'.isspace() }}|{{ '\u001c'.isspace() }}|{{ 'Ab Cd'.istitle() }}|{{ 'a_1'.isidentifier() }}|{{ '1a'.isidentifier() }}|{{ 'a\\n'.isprintable() }}
{{ 'ab'.center(7, '*') }}|{{ 'abc'.center(6) }}|{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5, '0') }}|{{ '-42'.zfill(6) }}|{{ 'a\\tb'.expandtabs(4) }}|{{ '42'.zfill(1) }}
{{ ', '.join(['a', 'b']) }}|{{ ''.join([]) }}|{{ '-'.join('abc') }}|{{ '-'.join(record) }}|{{ ','.join(people|map(attribute='name')) }}
{{ ', '.join([1, 2]) }}
{{ ', '.join(none) }}
{{ record.get('b') }}|{{ record.get('z') }}|{{ record.get('z', 'd') }}|{{ record.keys() }}|{{ record.values()|list }}|{{ record.items()|list }}|{{ record.items() }}|{{ record.copy() == record }}|{{ record.items()|length }}|{{ record.keys()|first }}
{{ record.get() }}
{{ record.keys()[0] }}
{{ numbers.index(1) }}|{{ numbers.count(3) }}|{{ (1, 2).index(2) }}|{{ numbers.copy() }}|{{ 'abc'.encode is defined }}
{{ numbers.index(9) }}
{{ numbers.append(1) }}
{{ numbers.pop() }}
{{ numbers.sort() }}
{{ numbers.reverse() }}
{{ numbers.insert(0, 1) }}
{{ numbers.extend([1]) }}
{{ record.update({'a': 1}) }}
{{ record.pop('b') }}
{{ record.setdefault('q', 1) }}
{{ record.clear() }}
{{ text.nope() }}
{{ seven.strip() }}
{{ none.strip() }}
{{ text.upper(1) }}
{{ text.upper }}
{{ text.__class__ }}|{{ text.__class__ is defined }}|{{ record._x is defined }}
{{ text.__class__.__mro__ }}
{{ text.format.__globals__ }}
{% set f = text.replace %}{{ f('l', 'L') }}|{{ text.upper is callable }}
{{ text.encode('utf-8') }}
{{ text.translate({72: 'J'}) }}
""".strip().split("\n")
FILTERS = """
{{ text|upper|lower|title }}|{{ 'hello wORLD (foo) [bar] a-b'|title }}|{{ 'hELLO'|capitalize }}|{{ none|upper }}|{{ missing|upper }}|{{ 5|lower }}|{{ none|trim }}|{{ missing|trim }}|{{ [1]|upper }}
{{ text|length }}|{{ numbers|count }}|{{ record|length }}|{{ missing|length }}|{{ range(3)|length }}|{{ accents|length }}
{{ none|length }}
{{ 5|length }}
{{ numbers|select|length }}
{{ numbers|first }}|{{ numbers|last }}|{{ text|first }}|{{ text|last }}|{{ []|first }}|{{ record|first }}|{{ missing|first }}|{{ record|last }}|{{ []|last is defined }}
{{ none|first }}
{{ numbers|join(', ') }}|{{ people|join(',', attribute='name') }}|{{ text|join('.') }}|{{ missing|join }}|{{ record|join('+') }}|{{ [1, none, true]|join(1) }}
{{ none|join }}
{{ missing|default('d') }}|{{ ''|default('d') }}|{{ ''|default('d', true) }}|{{ none|default('d') }}|{{ none|d('d', boolean=true) }}|{{ missing|default }}|{{ missing.x|default('d') }}
{{ missing.x.y|default('d') }}
{{ numbers|sort }}|{{ ['b', 'A', 'a', 'B']|sort }}|{{ ['b', 'A', 'a', 'B']|sort(case_sensitive=true) }}|{{ numbers|sort(reverse=true) }}|{{ people[:3]|sort(attribute='name')|map(attribute='age')|list }}|{{ people[:3]|sort(attribute='name,age')|map(attribute='age')|list }}|{{ record|sort }}|{{ ['b', 'A', 'a']|sort(true) }}
{{ mixed|sort }}
{{ people|sort(attribute='age') }}
{{ record.in|dictsort }}|{{ {'b': 1, 'A': 3, 'c': 2}|dictsort }}|{{ {'b': 1, 'A': 3}|dictsort(true) }}|{{ {'b': 1, 'A': 3}|dictsort(by='value') }}|{{ {'b': 1, 'A': 3}|dictsort(reverse=true) }}|{{ {'b': 1, 'A': 3}|dictsort(false, 'value', true) }}
{{ numbers|dictsort }}
{{ [3, 1, 3, 2]|unique|list }}|{{ ['a', 'A', 'b']|unique|list }}|{{ ['a', 'A']|unique(true)|list }}|{{ people|unique(attribute='name')|map(attribute='name')|list }}|{{ [1, 1.0, true]|unique|list }}
{% for key, all in people|groupby('name') %}{{ key }}={{ all|length }};{% endfor %}|{% for g in people|groupby('age', default=0) %}{{ g.grouper }}:{{ g.list|length }} {% endfor %}
{{ people|groupby('name', case_sensitive=true)|map('first')|list }}
{{ numbers|reverse|list }}|{{ text|reverse }}|{{ (1, 2)|reverse|list }}|{{ record|reverse|list }}|{{ numbers|select('odd')|reverse }}
{{ numbers|sum }}|{{ floats[:2]|sum }}|{{ people[:2]|sum(attribute='age') }}|{{ []|sum }}|{{ [[1], [2]]|sum(start=[]) }}|{{ [true, 2]|sum(start=10) }}
{{ ['a']|sum }}
{{ numbers|min }}|{{ numbers|max }}|{{ ['b', 'A']|min }}|{{ ['b', 'A']|max }}|{{ []|min }}|{{ people[:3]|max(attribute='age') }}|{{ ['a', 'B']|min(case_sensitive=true) }}
{{ people|map(attribute='age')|list }}|{{ people|map(attribute='age', default=0)|list }}|{{ ['a', 'b']|map('upper')|list }}|{{ words.split(',')|map('default', 'x', true)|list }}|{{ nested|map('first')|list }}|{{ nested|map(attribute=1)|list }}|{{ nested|map(attribute='0')|list }}|{{ [{'a': {'b': 1}}]|map(attribute='a.b')|list }}|{{ numbers|map('string')|join }}|{{ nothing|map('upper')|list }}
{{ numbers|map }}
{{ numbers|map('nope')|list }}
{{ numbers|map('upper', attribute='x')|list }}
{{ numbers|select('odd')|list }}|{{ numbers|reject('odd')|list }}|{{ [0, 1, '', 'a']|select|list }}|{{ [0, 1]|reject|list }}|{{ numbers|select('>', 1)|list }}|{{ numbers|select('in', [1, 2])|list }}|{{ people|selectattr('age')|list|length }}|{{ people|selectattr('age', 'defined')|map(attribute='name')|list }}|{{ people|selectattr('age', '>=', 30)|list|length if false }}|{{ people[:3]|selectattr('age', 'gt', 26)|map(attribute='name')|join }}|{{ people|rejectattr('name', 'equalto', 'bob')|list|length }}|{{ people|selectattr('name', '==', 'Cy')|list }}
{{ numbers|select('nope')|list }}
{{ people|selectattr }}
{{ 'yes' if []|selectattr('a') else 'no' }}|{{ 'yes' if numbers|select('>', 5) else 'no' }}|{{ 'yes' if numbers|select('>', 5)|list else 'no' }}|{{ numbers|map('string') is iterable }}|{{ numbers|map('string') is sequence }}
{% set g = numbers|map('string') %}{{ g|list }}{{ g|list }}
{{ '3.7'|int }}|{{ '42'|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ none|int }}|{{ 3.9|int }}|{{ '0x1f'|int(0, 16) }}|{{ '101'|int(base=2) }}|{{ true|int }}|{{ ' 12 '|int }}|{{ '1_000'|int }}|{{ '-5'|int }}|{{ ''|int }}|{{ missing|int }}|{{ [1]|int }}
{{ '3.7'|float }}|{{ 'x'|float }}|{{ 3|float }}|{{ '1e3'|float }}|{{ 'inf'|float }}|{{ 'x'|float(1) }}|{{ none|float }}|{{ ' 2 '|float }}|{{ 'nan'|float }}
{{ 42.55|round }}|{{ 42.55|round(1) }}|{{ 42.55|round(1, 'floor') }}|{{ 42.51|round(method='ceil') }}|{{ 2.5|round }}|{{ 3.5|round }}|{{ 42|round }}|{{ 1234|round(-2) }}|{{ 2.675|round(2) }}|{{ 42|round(1, 'ceil') }}|{{ 42.55|round|int }}|{{ -2.5|round }}
{{ -5|abs }}|{{ (-5)|abs }}|{{ -2.5|abs }}|{{ 'a'|replace('a', 'b') }}|{{ 'aaa'|replace('a', 'b', 2) }}|{{ 111|replace(1, 2) }}
{{ 'a'|abs }}
{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ 'a\\nb'|indent('> ') }}|{{ 'a\\nb\\n'|indent(1) }}|{{ 'a\\r\\nb'|indent(1) }}|{{ ''|indent(2, first=true) }}
{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, true) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(11, false, '...', 0) }}|{{ 'foo bar'|truncate(5, end='') }}|{{ 'foo bar'|center(11) }}|{{ 'foo  bar'|wordcount }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }}|{{ [1, 2, 3]|batch(2, 'x')|list }}|{{ [1, 2, 3, 4, 5]|slice(2)|list }}|{{ [1, 2, 3, 4, 5]|slice(3, 'x')|list }}
{{ tags|e }}|{{ tags|escape|upper }}|{{ tags|safe }}|{{ tags|striptags }}|{{ (tags|e) + '<' }}|{{ '<' + (tags|safe) }}|{{ '<' ~ (tags|safe) }}|{{ tags|forceescape }}|{{ 'a b/ü&'|urlencode }}
{{ text|list }}|{{ record|list }}|{{ range(3)|list }}|{{ missing|list }}|{{ (1, 2)|list }}
{{ none|list }}
{{ 5|list }}
{{ record|items|list }}|{{ missing|items|list }}|{{ numbers|string }}|{{ 1.0|string }}|{{ none|string }}|{{ missing|string }}
{{ numbers|items|list }}
{{ record|attr('b') is defined }}|{{ text|attr('upper') is defined }}|{{ record|attr('items') is callable }}
{{ text|nope }}
{% if false %}{{ text|nope }}{% endif %}ok
{{ text|nope if false else 'ok' }}
{% if true %}{{ text|nope }}{% endif %}
{% if false %}{% for x in [1] %}{{ x|nope }}{% endfor %}{% endif %}ok
{% for x in [] %}{{ x|nope }}{% endfor %}
{% if false %}{{ x is nope }}{% endif %}ok
{{ text is nope }}
{{ text|upper(1) }}
{{ text|default(x=1) }}
{{ text|trim(chars='dH') }}|{{ text|replace(new='x', old='l') }}|{{ [[1, 2]]|map('join', ',')|list }}
{% filter upper %}a{{ 'b' }}{% endfilter %}|{% filter replace('a', 'b')|upper %}banana{% endfilter %}|{% filter trim %}  x {% endfilter %}
""".strip().split("\n")
JSON = """
{{ record|tojson }}|{{ mixed|tojson }}|{{ floats|tojson }}|{{ accents|tojson }}|{{ tags|tojson }}|{{ blank|tojson }}|{{ none|tojson }}|{{ true|tojson }}|{{ (1, 2)|tojson }}|{{ 'inf'|float|tojson }}
{{ record|tojson(indent=2) }}|{{ []|tojson(indent=2) }}|{{ {}|tojson(indent=4) }}|{{ [1]|tojson(indent='\\t') }}|{{ [1, [2]]|tojson(indent=0) }}
{{ record|tojson(separators=(',', ':')) }}|{{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true) }}|{{ accents|tojson(ensure_ascii=true) }}|{{ ('\U0001f980' ~ '\u007f')|tojson(true) }}|{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}|{{ [1]|tojson(true, 1) }}|{{ record|tojson(indent=1, separators=(';', '=')) }}
{{ missing|tojson }}
{{ [missing]|tojson }}
{{ record.items()|tojson }}
{{ range(3)|tojson }}
{{ numbers|map('string')|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ {1: 1, 'a': 2}|tojson(sort_keys=true) }}
{{ text|tojson(nope=1) }}
{{ text|tojson|length }}|{{ (tags|tojson) ~ '<' }}|{{ (tags|tojson) + '<' }}|{{ tools|tojson }}|{{ namespace is defined }}
""".strip().split("\n")
TESTS = """
{% for x in [1, 2.5, true, none, 'a', [1], (1,), {'a': 1}, range(2), record.items(), numbers|select, missing] %}{{ [x is string, x is number, x is integer, x is float, x is boolean, x is none, x is sequence, x is mapping, x is iterable, x is defined, x is undefined, x is callable, x is true, x is false] }};{% endfor %}
{{ none is iterable }}|{{ missing is iterable }}|{{ missing is sequence }}|{{ text is iterable }}|{{ 1 is iterable }}|{{ missing is callable }}|{{ range is callable }}|{{ loop is defined }}
{{ 3 is odd }}|{{ 3 is even }}|{{ -3 is odd }}|{{ 6 is divisibleby 3 }}|{{ 6 is divisibleby(4) }}|{{ 3 is eq 3 }}|{{ 3 is ne 3 }}|{{ 3 is gt 2 }}|{{ 3 is lessthan 2 }}|{{ 'a' is in ['a'] }}|{{ 'a' is not in ['a'] }}|{{ 3 is sameas 3 }}|{{ true is sameas true }}|{{ 1 is sameas true }}|{{ [] is sameas [] }}|{{ 'ab' is lower }}|{{ 'AB' is upper }}|{{ 'upper' is filter }}|{{ 'nope' is filter }}|{{ 'odd' is test }}|{{ text is escaped }}
{{ 'a' is odd }}
{{ none is odd }}
{{ 1 is gt 'a' }}
{{ 1 is divisibleby }}
{{ 1 is defined(2) }}
{{ not x is defined }}|{{ x is not defined and y is not defined }}|{{ 1 is defined is defined }}
{{ 1 is number and 2 is number }}|{{ text is string or nope is defined }}|{{ 'a' if x is defined else 'b' }}|{{ 1 is eq 1 + 1 }}|{{ numbers[0] is eq numbers[0] }}
{{ x.y is defined }}
{{ messages[0] is mapping }}|{{ messages is sequence }}|{{ messages is iterable and messages is not string }}|{{ messages[0].content is string }}|{{ messages[0].nope is none }}|{{ tools is none }}|{{ tools is defined }}|{{ documents is defined }}|{{ bos_token }}{{ eos_token }}|{{ unk_token is defined }}|{{ add_generation_prompt }}
""".strip().split("\n")
STATEMENTS = r"""
{% for x in numbers %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.depth }}/{{ loop.depth0 }} {% endfor %}
{% for x in numbers %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}|{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {% endfor %}|{% for x in numbers %}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for x in numbers if x > 1 %}{{ loop.index }}{{ loop.last }}{{ loop.length }};{% else %}none{% endfor %}|{% for x in [] %}x{% else %}empty{% endfor %}|{% for x in missing %}x{% else %}e{% endfor %}
{% for x in none %}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for c in 'abc' %}{{ c }}{% if not loop.last %},{% endif %}{% endfor %}|{% for k in record %}{{ k }} {% endfor %}|{% for k, v in record.items() %}{{ k }}={{ v }}{{ ',' if not loop.last }}{% endfor %}|{% for a, b in nested %}{{ a }}{{ b }}{% endfor %}|{% for (a, b) in nested %}{{ a }}{{ b }}{% endfor %}|{% for k, v in record|dictsort if false %}{% endfor %}|{% for x in 1, 2 %}{{ x }}{% endfor %}
{% for a, b in numbers %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for x in nested recursive %}[{{ x if x is string or x is number else loop(x) }}]{% endfor %}|{% for x in [[1, [2]], 3] recursive %}{{ loop.depth }}{% if x is iterable %}({{ loop(x) }}){% endif %}{% endfor %}
{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x > 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in numbers %}{% with y = x %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endwith %}{% endfor %}|after
{% break %}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = i + 10 %}{{ x }};{% endfor %}{{ x }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}|{% if false %}{% set q = 1 %}{% endif %}{{ q is defined }}
{% for i in [1, 2] %}{% if i == 1 %}{% set seen = true %}{% endif %}{{ seen is defined }}{% endfor %}|{{ seen is defined }}
{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}|{% set ns.items = [1] %}{{ ns.items }}|{% set ns.b = 'x' %}{{ ns.b ~ ns.a }}|{{ ns.nope is defined }}|{% set n2 = namespace({'q': 1}, r=2) %}{{ n2.q }}{{ n2.r }}|{{ ns['a'] }}
{% set record.b = 2 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}|{% set a, b = b, a %}{{ a }}{{ b }}|{% set (c, d) = [3, 4] %}{{ c }}{{ d }}|{% set t = 1, 2 %}{{ t }}|{% set t = (1,) %}{{ t }}
{% set a, b = 1 %}
{% set x %}block {{ seven }}{% endset %}{{ x }}|{% set x | upper %}block{% endset %}{{ x }}|{% set y %}{% set inner = 5 %}{{ inner }}{% endset %}{{ y }}{{ inner is defined }}|{{ x + '!' }}|{{ x is string }}
{% macro m(a, b='B', c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 2) }}|{{ m(1, c=3) }}|{{ m(b=1, a=2) }}|{{ m() }}|{{ m(1)|upper }}|{{ m is callable }}|{{ m.name }}|{{ m(1) + 'x' }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}
{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, z=3) }}
{% macro m() %}{{ seven }}{% set q = 1 %}{{ outer is defined }}{% endmacro %}{% set outer = 1 %}{{ m() }}{{ q is defined }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}
{% for x in [1, 2] %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}|{% for x in [1] %}{% macro k() %}{{ loop.index }}{% endmacro %}{{ k() }}{% endfor %}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}body {{ seven }}{% endcall %}|{% macro l(xs) %}{% for x in xs %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) l([1, 2]) %}({{ x }}){% endcall %}
{% with a = 1, b = 2 %}{{ a + b }}{% set c = 3 %}{% endwith %}{{ a is defined }}{{ c is defined }}|{% with %}{% set d = 1 %}{{ d }}{% endwith %}{{ d is defined }}|{% with a = 1 %}{% with b = a %}{{ b }}{% endwith %}{% endwith %}
{% with a = 1, b = a %}{{ b }}{% endwith %}
{% if numbers %}a{% elif text %}b{% else %}c{% endif %}|{% if missing %}a{% elif missing is defined %}b{% else %}c{% endif %}|{% if [] or {} or '' or 0 or none or 0.0 %}t{% else %}f{% endif %}|{% if (numbers|select('>', 9)) %}t{% endif %}
{% print seven %}|{% print 1, 2 %}
{% do numbers.append(1) %}
{% include 'x' %}
{% extends 'x' %}
{% if false %}{% include 'x' %}{% endif %}ok
{% block b %}in {{ seven }}{% endblock %}|{{ self.b() }}
{% nope %}
{% endfor %}
{% for x in numbers %}
{% if true %}{% endfor %}
{{ 1 +
{{ 'a
{{ 1 2 }}
{{ }}
{% if %}{% endif %}
{# comment
{% raw %}x
{% set x = 1 %}{% set x = x + 1 %}{{ x }}|{% set range = 3 %}{{ range }}
{{ range(3) }}|{{ range(1, 7, 2)|list }}|{{ range(3, 0, -1)|list }}|{{ range(5)[1] }}|{{ range(0) is sameas none }}|{{ 2 in range(3) }}|{% for i in range(2) %}{{ i }}{% endfor %}|{{ range(3)|last }}|{{ range(2)|join }}|{{ range(-1)|list }}|{{ 'y' if range(0) else 'n' }}
{{ range(1.5) }}
{{ range('a') }}
{{ range(10 ** 9) }}
{{ range(100001) }}
{{ range(1, 2, 0) }}
{{ dict(a=1, b=2) }}|{{ dict([('a', 1)]) }}|{{ dict({'a': 1}, b=2) }}|{{ dict() }}|{{ dict(record).keys()|list }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set _ = c.reset() %}{{ c.current }}|{% set j = joiner('; ') %}{% for x in numbers %}{{ j() }}{{ x }}{% endfor %}
{{ raise_exception('no') }}
{{ strftime_now('%Y-%m-%d %d %b %B %H:%M:%S %p %a %A %j %y %-d %e %% %F %T %D %U %W %u %w %G %V %I %c|%x|%X|%f|%z|%Z|%q|%') }}
{{ lipsum(1, false)|length > 0 }}
{{ dict.fromkeys is defined }}
{{ messages|map(attribute='role')|join(',') }}|{{ messages[-1]['content'].strip() }}|{{ messages[1:]|length }}|{{ messages|selectattr('role', 'equalto', 'user')|list|length }}|{{ (messages|last).role }}|{{ messages[0] }}|{{ messages[0]|tojson }}|{{ messages[0].items()|list }}
{%- for message in messages -%}{{ loop.index0 % 2 == 0 }}{{ (message['role'] == 'user') != (loop.index0 % 2 == 0) }}{% endfor %}
{% set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{{ loop_messages|length }}
{% generation %}a{% set q = 1 %}{{ q }}{% endgeneration %}{{ q is defined }}
{%- generation -%} a {%- endgeneration -%} b|{%+ generation +%} a {%+ endgeneration +%}
{% for x in numbers %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% for x in numbers %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}
{% generation %}a
{% generation x %}a{% endgeneration %}
{% set x = 5 %}{% generation %}{{ x }}{% set x = 6 %}{{ x }}{% endgeneration %}{{ x }}
{% autoescape true %}{{ '<' }}{% endautoescape %}
""".strip().split("\n")
WHITESPACE = [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if true %}\n  b\n  {%- endif %}\nc", "a {% if true -%}\n  b\n{%- endif %} c\n\n",
    "  {% if true %}x{% endif %}  \n  y", "a\n  {%+ if true %}x{%+ endif %}\n", "a {%+ if true +%}\nx{% endif +%}\ny", "\n\n{{ 1 }}\n\n", "x\n",
    "  {{ 1 }}\n  {{- 2 }}\n  {{ 3 -}}\n  z", "a\r\n{% if true %}\r\nb\r{% endif %}\rc\r\n", "{# c #}\nx\n  {# c #}\ny {# c #} z", "x {#- c -#} y {#+ c +#}\nz",
    "{% raw %}\n {{ x }} {% y %}\n{% endraw %}\nz", "a\n  {% raw %}  x  {% endraw %}  \nb", "a {%- raw -%} {{ x }} {%- endraw -%} b", "{{ '\r\n' }}|{{ 'a\nb' }}",
    "{%- set x = 1 -%}\n\n{{ x }}", "{% if true %}\n\n\nx{% endif %}\n", "\t{% if true %}\n\t\tx\n\t{% endif %}\n", "a{{ 1 }}\nb", "a{% if true %}\nb{% endif %}\nc",
    "{% for x in [1, 2] %}\n  - {{ x }}\n{% endfor %}\nend\n", "{% for x in [1, 2] -%}\n  - {{ x }}\n{% endfor -%}\nend\n", "{{ 'a' }}  \n  {% set x = 1 %}  \n  b",
    "x {{ '{' }}{{ '}' }} { { } } {", "{{{'a': 1}}}", "{{ {'a': {'b': 1}} }}", "{ {{ 1 }} }", "{%if true%}a{%else%}b{%endif%}", "{{1}}{{-1}}{{ -1 }}", "{{ 1-}} x",
    "a\u00a0{%- if true %}b{% endif %}", "a\u200b{%- if true %}b{% endif %}", "a\u001c{%- if true %}b{% endif %}", "a\n\u00a0 {% if true %}b{% endif %}", "\x0b{% if true %}\nx{% endif %}",
    "{% set x %}\n a\n{% endset %}[{{ x }}]", "{% macro m() %}\n a\n{% endmacro %}\n[{{ m() }}]", "{% macro m() -%}\n a\n{%- endmacro %}\n[{{ m() }}]", "a\n{%- generation -%}\nb\n{%- endgeneration -%}\nc",
    "a\n  {% generation %}\nb\n  {% endgeneration %}\nc\n", "{{ 'x'\n  + 'y' }}\n{% if true\n   and true %}\nz{% endif %}", "#{ x }# %{ y }%", "{{ \"a\" }}{#\n\n#}\n{{ 'b' }}", "{#}x#}", "{{ '-}}' }}", "{% if '%}' %}x{% endif %}",
    "# for x in y\n## c\n{{ 1 }}", "{% - if true %}x{% endif %}", "{{ 1 }}}", "}}", "%}", "a #} b", "{%\n-%}", "{{ x|default('a') -}}  \n  {%- if true %} y {%- endif +%}  z",
]


def cases() -> list[str]:
    return OUTPUT + OPERATORS + FORMATS + METHODS + FILTERS + JSON + TESTS + STATEMENTS + WHITESPACE


def parts(template: str) -> list[str]:
    """Lines with `|` between outputs are several cases."""
    if template in WHITESPACE or "|{" not in template:
        return [template]
    pieces = template.split("}}|{{")
    if len(pieces) == 1 or "{%" in template:
        return [template]
    return ["{{" * (i > 0) + piece + "}}" * (i < len(pieces) - 1) for i, piece in enumerate(pieces)]


def render(template: str) -> dict:
    case = {"template": template}
    try:
        compiled = chats.chat_template_utils._compile_jinja_template(template)
        case["text"] = compiled.render(messages=MESSAGES, tools=None, documents=None, add_generation_prompt=False,
                                       bos_token="<s>", eos_token="</s>", **json.loads(json.dumps(CONTEXT)))
        case["text"] = re.sub(" at 0x[0-9a-f]+", "", case["text"])  # where Python keeps it
    except Exception as error:  # of any kind
        case["error"] = f"{type(error).__name__}: {error}".split("\n")[0][:100]
    return case


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(__file__).resolve().parent.parent / "tests" / "chats" / "expressions.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing it")
    args = parser.parse_args()
    if chats.MISSING:
        sys.exit(f"transformers is needed: {chats.MISSING}")
    chats.chat_template_utils.datetime = chats.Clock
    templates = list(dict.fromkeys(part for case in cases() for part in parts(case)))
    rendered = [render(template) for template in templates]
    lines = ",\n".join(json.dumps(case) for case in rendered)
    text = f'{{"context": {json.dumps(CONTEXT)}, "messages": {json.dumps(MESSAGES)}, "cases": [\n{lines}\n]}}\n'
    if args.check:
        differs = not args.out.exists() or args.out.read_text() != text
        print("differs" if differs else f"{len(rendered)} cases")
        return differs
    args.out.write_text(text)
    print(f"{len(rendered)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
