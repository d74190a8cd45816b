//! A chat template's source, read as Jinja2 reads it and written for minijinja.
//!
//! Jinja2's lexer decides what is text and what is a tag, and which blanks tags take away
//! (`trim_blocks`, `lstrip_blocks`, signs); what is written has none of these left to decide.
//! `{% generation %}` is the tag of transformers' extension: a block with a scope of its own.

use super::expression::{LONGEST, Parser, plain};
use super::operands::quoted;
use super::python::is_space;
use super::scan::{basic_tag, namespace, newlines, next_tag, stripped};
use super::tokens;
use super::tokens::Tag;

/// The filter that encloses what the assistant writes in marks.
pub(super) const MARK: &str = "py_mark";

/// Blocks may not be nested deeper; Python's compiler gives up at twenty loops.
const DEEPEST: usize = 60;

/// Bytes of text that are written in loops and macros without being counted.
const LONG: usize = 16;

/// A template for minijinja.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) plain: String,
    /// The same with marks around what `{% generation %}` encloses, if there is such a tag.
    pub(super) marked: Option<String>,
}

/// What is wrong with a template, and in which line.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) what: String,
    pub(super) line: usize,
}

/// Reads a template.
pub(super) fn read(source: &str) -> Result<Source, Fault> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut reader = Reader {
        source,
        at: 0,
        line_starts: true,
        text: String::new(),
        out: Writer::default(),
        blocks: Vec::new(),
        namespaces: Vec::new(),
    };
    reader.all().map_err(|what| Fault {
        what,
        line: 1 + newlines(&source[..reader.at]),
    })?;
    let out = reader.out;
    Ok(Source {
        marked: out.generations.then_some(out.marked),
        plain: out.plain,
    })
}

/// Both templates, as they grow.
#[derive(Default)]
struct Writer {
    plain: String,
    marked: String,
    generations: bool,
    lines: usize,
}

impl Writer {
    fn push(&mut self, text: &str) {
        self.lines += newlines(text);
        self.plain.push_str(text);
        self.marked.push_str(text);
    }

    /// A tag of the line `line`; lines that were dropped before it are made up for inside of it.
    fn tag(&mut self, line: usize, open: &str, inside: &str, close: &str) {
        self.push(open);
        let missing = line.saturating_sub(self.lines);
        self.push(&"\n".repeat(missing));
        self.push(inside);
        self.push(close);
    }
}

/// A block that is open.
struct Block {
    name: &'static str,
    /// Whether a filter that does not exist is an error only where it is reached.
    soft: bool,
    /// What is written where it ends.
    end: &'static str,
    branches: usize,
}

/// Tags that open a block, with what is written before the end of the block: Jinja2 gives all of
/// them a scope of their own except `if`.
const BLOCKS: [(&str, &str, &str); 9] = [
    ("if", "endif", ""),
    ("for", "endfor", ""),
    ("macro", "endmacro", ""),
    ("call", "endcall", ""),
    ("filter", "endfilter", "{% endwith %}"),
    ("set", "endset", "{% endwith %}"),
    ("with", "endwith", ""),
    ("block", "endblock", ""),
    ("generation", "endgeneration", "{% endwith %}"),
];

/// Tags that need a loader of templates, which transformers does not give Jinja2.
const LOADERS: [&str; 4] = ["include", "import", "from", "extends"];

struct Reader<'s> {
    source: &'s str,
    at: usize,
    /// Whether what was read last ended a line.
    line_starts: bool,
    /// Text that is not written yet.
    text: String,
    out: Writer,
    blocks: Vec<Block>,
    /// Names that hold namespaces.
    namespaces: Vec<String>,
}

type Result<T, E = String> = std::result::Result<T, E>;

impl<'s> Reader<'s> {
    fn all(&mut self) -> Result<()> {
        while let Some(found) = next_tag(&self.source[self.at..]) {
            let start = self.at + found;
            let open = &self.source[start..start + 2];
            let inside = start + 2;
            let sign = self.source[inside..]
                .chars()
                .next()
                .filter(|c| "-+".contains(*c));
            let before = &self.source[self.at..start];
            self.text
                .push_str(stripped(before, sign, open == "{{", self.line_starts));
            self.line_starts = false;
            self.at = inside + usize::from(sign.is_some());
            match open {
                "{#" => self.comment()?,
                "{%" => match self.raw()? {
                    true => {}
                    false => self.statement(start)?,
                },
                _ => self.output(start)?,
            }
        }
        let rest = &self.source[self.at..];
        self.text.push_str(rest);
        self.flush();
        match self.blocks.last() {
            None => Ok(()),
            Some(block) => Err(format!("`{{% {} %}}` is not closed", block.name)),
        }
    }

    fn line(&self, at: usize) -> usize {
        newlines(&self.source[..at])
    }

    /// Writes the text so far; where it could be taken for a tag, as a quoted one.
    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let tags = ["{{", "{%", "{#"].iter().any(|tag| text.contains(tag));
        // What a loop writes counts, unless it is short.
        let counts = text.len() > LONG && self.blocks.iter().any(|block| block.name != "if");
        match tags || counts || text.ends_with('{') {
            true => self.out.push(&format!("{{{{ {} }}}}", quoted(&text))),
            false => self.out.push(&text),
        }
    }

    /// After the end of a tag: blanks that it takes away.
    fn close(&mut self, len: usize, sign: Option<char>, block: bool) {
        self.at += len;
        let rest = &self.source[self.at..];
        let taken = match sign {
            Some('-') => rest.len() - rest.trim_start_matches(is_space).len(),
            None if block && rest.starts_with('\n') => 1,
            _ => 0,
        };
        self.line_starts = rest[..taken].ends_with('\n');
        self.at += taken;
    }

    fn comment(&mut self) -> Result<()> {
        let rest = &self.source[self.at..];
        let end = rest.find("#}").ok_or("a comment without its end, `#}`")?;
        let sign = rest[..end]
            .chars()
            .next_back()
            .filter(|c| "-+".contains(*c));
        self.close(end + 2, sign, true);
        Ok(())
    }

    /// The text of `{% raw %}`, if that is the tag.
    fn raw(&mut self) -> Result<bool> {
        let Some((len, sign)) = basic_tag(&self.source[self.at..], "raw") else {
            return Ok(false);
        };
        // Unlike other tags it leaves the end of its line.
        self.close(len, sign, false);
        let mut from = self.at;
        loop {
            let open = self.source[from..].find("{%").map(|found| from + found);
            let open = open.ok_or("`{% raw %}` is not closed")?;
            let inside = open + 2;
            let sign = self.source[inside..]
                .chars()
                .next()
                .filter(|c| "-+".contains(*c));
            let name = inside + usize::from(sign.is_some());
            let Some((len, end)) = basic_tag(&self.source[name..], "endraw") else {
                from = inside;
                continue;
            };
            let before = &self.source[self.at..open];
            self.text
                .push_str(stripped(before, sign, false, self.line_starts));
            self.at = name;
            self.close(len, end, true);
            return Ok(true);
        }
    }

    fn output(&mut self, start: usize) -> Result<()> {
        let Tag { tokens, len, sign } = tokens::read(&self.source[self.at..], "}}")?;
        let mut parser = Parser::new(&tokens, self.soft(), &self.namespaces);
        let text = parser.tuple(true)?;
        parser.end()?;
        self.emit(start, &text);
        self.close(len, sign, false);
        Ok(())
    }

    fn emit(&mut self, start: usize, expression: &str) {
        self.flush();
        let line = self.line(start);
        self.out.tag(line, "{{ ", expression, " }}");
    }

    fn write(&mut self, start: usize, inside: &str) {
        self.flush();
        let line = self.line(start);
        self.out.tag(line, "{% ", inside, " %}");
    }

    /// Whether a filter that does not exist is an error only where it is reached.
    fn soft(&self) -> bool {
        self.blocks.last().is_some_and(|block| block.soft)
    }

    fn statement(&mut self, start: usize) -> Result<()> {
        let Tag { tokens, len, sign } = tokens::read(&self.source[self.at..], "%}")?;
        let namespaces = std::mem::take(&mut self.namespaces);
        let mut parser = Parser::new(&tokens, self.soft(), &namespaces);
        let name = parser.name()?;
        self.tag(start, name, &mut parser)?;
        parser.end()?;
        self.namespaces = namespaces;
        self.namespaces.extend(namespace(&tokens));
        self.close(len, sign, true);
        Ok(())
    }

    /// Writes a statement.
    fn tag(&mut self, start: usize, name: &str, parser: &mut Parser) -> Result<()> {
        match name {
            "if" => {
                parser.set_soft();
                let condition = parser.tuple(false)?;
                self.write(start, &format!("if {condition}"));
                self.open("if", true)
            }
            "elif" => {
                self.inside(&["if"], name)?;
                self.branch()?;
                let condition = parser.tuple(false)?;
                self.write(start, &format!("elif {condition}"));
                Ok(())
            }
            "else" => {
                self.inside(&["if", "for"], name)?;
                self.write(start, "else");
                Ok(())
            }
            "for" => {
                let text = parser.for_loop()?;
                self.write(start, &text);
                self.open("for", false)
            }
            "set" => self.set(start, parser),
            "with" => {
                let text = parser.with()?;
                self.write(start, &text);
                self.open("with", false)
            }
            "filter" => {
                let mut text = format!("filter {}", parser.filter()?);
                while parser.skip_operator("|") {
                    text += &format!("|{}", parser.filter()?);
                }
                self.write(start, &text);
                self.out.push("{% with %}");
                self.open("filter", false)
            }
            "macro" => {
                let name = parser.name()?;
                let (parameters, defaults) = parser.parameters()?;
                self.write(start, &format!("macro {name}({parameters})"));
                self.out.push(&defaults);
                self.open("macro", false)
            }
            "call" => {
                let (parameters, defaults) = match parser.is_operator("(") {
                    true => parser.parameters()?,
                    false => Default::default(),
                };
                let call = parser.unconditional()?.text;
                self.write(start, &format!("call({parameters}) {call}"));
                self.out.push(&defaults);
                self.open("call", false)
            }
            "print" => {
                let mut text = parser.expression()?.text;
                while parser.skip_operator(",") {
                    text = format!("({text})|py_concat({})", parser.expression()?.text);
                }
                self.emit(start, &text);
                Ok(())
            }
            "break" | "continue" => {
                // minijinja does not leave the scopes between the loop and its `break`.
                match self.blocks.iter().rev().find(|block| block.name != "if") {
                    Some(block) if block.name == "for" => {}
                    Some(block) => return Err(format!("`{name}` inside of `{}`", block.name)),
                    None => return Err(format!("`{name}` outside of a loop")),
                }
                self.write(start, name);
                Ok(())
            }
            "block" => {
                let block = parser.name()?;
                while parser.skip_name("scoped") || parser.skip_name("required") {}
                self.write(start, &format!("block {block}"));
                self.open("block", false)
            }
            "autoescape" => Err("`autoescape` is not supported".to_owned()),
            "generation" => {
                self.generation(start);
                self.open("generation", false)
            }
            loader if LOADERS.contains(&loader) => {
                while parser.skip_any() {}
                let what = format!("`{loader}` needs other templates, and there are none");
                self.emit(start, &format!("none|py_missing({})", quoted(&what)));
                Ok(())
            }
            end => self.end(start, end, parser),
        }
    }

    fn set(&mut self, start: usize, parser: &mut Parser) -> Result<()> {
        let target = parser.target(true)?;
        if parser.skip_operator("=") {
            let value = parser.tuple(true)?;
            let kept = match target.contains('.') && !plain(&value) {
                true => "|py_keep",
                false => "",
            };
            self.write(start, &format!("set {target} = ({value}){kept}"));
            return Ok(());
        }
        let mut text = format!("set {target}");
        while parser.skip_operator("|") {
            parser.link()?;
            text += &format!(" | {}", parser.filter()?);
        }
        self.write(start, &text);
        self.out.push("{% with %}");
        self.open("set", false)
    }

    fn generation(&mut self, start: usize) {
        self.flush();
        let line = self.line(start);
        let missing = "\n".repeat(line.saturating_sub(self.out.lines));
        self.out.lines += missing.len();
        self.out.generations = true;
        self.out.plain += &format!("{{% {missing}with %}}");
        self.out.marked += &format!("{{% {missing}filter {MARK} %}}{{% with %}}");
    }

    fn open(&mut self, name: &'static str, soft: bool) -> Result<()> {
        if self.blocks.len() >= DEEPEST {
            return Err(format!("blocks nested deeper than {DEEPEST}"));
        }
        let end = BLOCKS.iter().find(|block| block.0 == name);
        let end = end.map_or("", |block| block.2);
        let branches = 1;
        self.blocks.push(Block {
            name,
            soft,
            end,
            branches,
        });
        Ok(())
    }

    /// Counts one more branch of the innermost block.
    fn branch(&mut self) -> Result<()> {
        if let Some(block) = self.blocks.last_mut() {
            block.branches += 1;
            if block.branches > LONGEST {
                return Err(format!("an `if` with more than {LONGEST} branches"));
            }
        }
        Ok(())
    }

    fn inside(&self, blocks: &[&str], name: &str) -> Result<()> {
        match self.blocks.last() {
            Some(block) if blocks.contains(&block.name) => Ok(()),
            _ => Err(format!("unexpected `{{% {name} %}}`")),
        }
    }

    fn end(&mut self, start: usize, name: &str, parser: &mut Parser) -> Result<()> {
        let Some((open, _, _)) = BLOCKS.iter().find(|block| block.1 == name) else {
            return Err(format!("unknown tag `{name}`"));
        };
        self.inside(&[open], name)?;
        let Some(block) = self.blocks.pop() else {
            return Err(format!("unexpected `{{% {name} %}}`"));
        };
        if name == "endblock" {
            parser.skip_any();
        }
        self.flush();
        match name {
            "endgeneration" => {
                self.out.push("{% endwith %}");
                self.out.marked += "{% endfilter %}";
            }
            _ => {
                self.out.push(block.end);
                self.write(start, name);
            }
        }
        Ok(())
    }
}
