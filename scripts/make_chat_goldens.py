#!/usr/bin/env python3
"""Renders the chats of tests/chats with transformers and keeps what comes out as expectations.

    pip install transformers jinja2
    python scripts/make_chat_goldens.py            # writes tests/chats/golden/*.json
    python scripts/make_chat_goldens.py --check    # compares instead; exit code 1 if one differs

Every template of tests/chats/templates renders every chat of tests/chats/chats.json with transformers' own
code: a tokenizer that has the template's special tokens and knows no words applies the template. The clock
of `strftime_now` stands at midnight of 2024-07-26. Where a template has a twin with `{% generation %}` tags
(`<name>_training.jinja`), both must give the same text, and what the twin marks is also the plain
template's expectation. Written with transformers 5.24.0 and Jinja2 3.1.6; earlier versions pass a message's
`null` fields to the template and do not copy reasoning between `reasoning_content` and `thinking`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path

try:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import chat_template_utils
    MISSING = None
except ImportError as error:
    MISSING = error

TWIN = "_training"
NOW = (2024, 7, 26)
SENTENCEPIECE = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
ENDOFTEXT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
COHERE = {"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"}
TOKENS = {  # by the longest prefix of the template's name
    "": SENTENCEPIECE,
    "chatml": CHATML, "qw": CHATML, "nemotron": CHATML,
    "smollm": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
    "generation": {},
    "glm": {"eos_token": "<|endoftext|>"},
    "deepseek": {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"},
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "llama2": SENTENCEPIECE, "llama3": LLAMA3, "llama4": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot|>"},
    "hermes": {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"},
    "co": COHERE,
    "phi4": ENDOFTEXT, "olmo2": ENDOFTEXT, "falcon3": {"eos_token": "<|endoftext|>"},
    "phi3": {"bos_token": "<s>", "eos_token": "<|endoftext|>"},
    "gpt-oss": {"bos_token": "<|startoftext|>", "eos_token": "<|return|>"},
    "granite": {"bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>"},
    "yi": {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>"},
    "hunyuan": {"bos_token": "<|startoftext|>", "eos_token": "<|eos|>"},
    "kimi": {"bos_token": "[BOS]", "eos_token": "[EOS]"},
    "minimax": {"bos_token": "]~!b[", "eos_token": "[e~["},
    "seed": {"bos_token": "<seed:bos>", "eos_token": "<seed:eos>"},
}


def tokens_of(name: str) -> dict[str, str]:
    return TOKENS[max((prefix for prefix in TOKENS if name.startswith(prefix)), key=len)]


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW, tzinfo=tz)


def apply(source: str, tokens: dict[str, str], chat: dict, prompt: bool) -> tuple[str, list[list[int]]]:
    """What the chat looks like, and the bytes from where to where the assistant speaks."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **tokens)
    kwargs = {"tools": chat.get("tools"), "add_generation_prompt": prompt, **chat.get("kwargs", {})}
    text = tokenizer.apply_chat_template(chat["messages"], chat_template=source, tokenize=False, **kwargs)
    # The same once more: a tokenizer only tells which tokens are the assistant's, not which characters.
    messages = chat_template_utils._normalize_chat_messages(chat["messages"])
    again, spans = chat_template_utils.render_jinja_template(
        [messages], chat_template=source, return_assistant_tokens_mask=True,
        **{**tokenizer.special_tokens_map, **kwargs})
    if again != [text]:
        sys.exit(f"two texts of one chat:\n{text!r}\n{again[0]!r}")
    return text, [[len(text[:end].encode()) for end in span] for span in spans[0]]


def golden(name: str, templates: dict[str, str], chats: list[dict]) -> dict:
    source, tokens = templates[name], tokens_of(name)
    twin = templates.get(name + TWIN)
    cases = []
    for number, chat in enumerate(chats):
        for prompt in (False, True):
            if prompt and (name.endswith(TWIN) or number % 6 and chat["messages"][-1]["role"] == "assistant"):
                continue  # enough of them
            case = {"chat": chat["name"], "add_generation_prompt": prompt}
            try:
                case["text"], spans = apply(source, tokens, chat, prompt)
            except Exception as error:  # templates raise what they like
                case |= {"error": True, "message": f"{type(error).__name__}: {error}"}
            if twin:
                try:
                    text, spans = apply(twin, tokens, chat, prompt)
                except Exception:
                    text = None
                if text != case.get("text"):
                    sys.exit(f"{name}, {chat['name']}: the training template gives\n{text!r}, not\n{case!r}")
            if "text" in case and not prompt and (twin or "endgeneration" in source):
                case["spans"] = spans
            cases.append(case)
    return {"template": name, "tokens": tokens, "cases": cases}


def lines(golden: dict) -> str:
    """JSON with one case a line."""
    head = ", ".join(f'"{key}": {json.dumps(golden[key], ensure_ascii=False)}' for key in ("template", "tokens"))
    cases = ",\n".join(json.dumps(case, ensure_ascii=False) for case in golden["cases"])
    return f'{{{head}, "cases": [\n{cases}\n]}}\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chats", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "chats",
                        help="the folder with chats.json, templates and golden")
    parser.add_argument("--check", action="store_true", help="compare with what is there instead of writing it")
    args = parser.parse_args()
    if MISSING:
        sys.exit(f"transformers is needed: {MISSING}")
    chat_template_utils.datetime = Clock
    chats = json.loads((args.chats / "chats.json").read_text(encoding="utf-8"))
    # read_bytes keeps CRLF
    templates = {path.stem: path.read_bytes().decode() for path in sorted((args.chats / "templates").glob("*.jinja"))}
    stale = {path.name for path in (args.chats / "golden").glob("*.json")} - {f"{name}.json" for name in templates}
    differ = [f"{name}: no such template" for name in sorted(stale)]
    for name in templates:
        path, text = args.chats / "golden" / f"{name}.json", lines(golden(name, templates, chats))
        if not args.check:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text.encode())
        elif not path.exists() or path.read_bytes().decode() != text:
            differ.append(name)
    print("\n".join(differ) or f"{len(templates)} templates, {len(chats)} chats")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main())
