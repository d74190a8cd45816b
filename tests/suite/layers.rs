//! Data flows one way: each room imports only the rooms of the layers before it, as the table of
//! `ARCHITECTURE.md` has them, and within a room files do not import each other in circles.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Files of a room that import each other in a circle, and why that is so. What is declared in a
/// folder's `mod.rs` belongs to all of its files and makes no circle.
const CIRCLES: [(&str, &str); 11] = [
    (
        "align::pieces align::warp",
        "a cost is that of two pieces, and a piece knows its cost",
    ),
    (
        "artifact::columns artifact::encoding::decode artifact::reader artifact::rows",
        "reading rows opens parts, and opening a part looks at rows",
    ),
    (
        "project::projector project::warped",
        "one of the projections is made of the other",
    ),
    (
        "query::check query::files query::permit query::session query::stream",
        "a session checks the files that it shows",
    ),
    (
        "text::records::fields text::records::formats text::records::messages text::records::notes text::records::record text::records::shapes",
        "a record is read by its shape, which records have",
    ),
    (
        "text::template text::turns text::turns::contents text::turns::frame text::turns::skeleton",
        "the turns of a chat are found by rendering its template, which says where they end",
    ),
    (
        "text::template::jinja::arguments text::template::jinja::format text::template::jinja::methods text::template::jinja::numeric text::template::jinja::objects text::template::jinja::python text::template::jinja::splits text::template::jinja::strings",
        "values have methods that give values",
    ),
    (
        "text::template::jinja::checks text::template::jinja::filters text::template::jinja::groups text::template::jinja::sequences",
        "a filter takes the names of filters",
    ),
    (
        "text::template::jinja::operators text::template::jinja::slices",
        "a slice of a value is an operation on it",
    ),
    (
        "train::groups train::options",
        "options list groups, whose patterns are options",
    ),
    (
        "vocab::first vocab::literal vocab::tokenizer",
        "a tokenizer holds tables that are made with it",
    ),
];

/// A module by the names on the way to it: `["model", "gguf"]`.
type Module = Vec<String>;

/// The code of each module, without comments and tests.
fn modules() -> BTreeMap<Module, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![(src, Vec::new())];
    while let Some((folder, at)) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let is_test = name == "tests" || name.ends_with("_tests");
            let mut module = at.clone();
            if name != "mod" {
                module.push(name);
            }
            if is_test {
                continue;
            } else if path.is_dir() {
                folders.push((path, module));
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.insert(module, code(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.retain(|module, _| !matches!(module[0].as_str(), "lib" | "main"));
    found
}

/// What the compiler sees of a file when it builds the library.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) => &line[..at],
        None => line,
    });
    let lines: Vec<&str> = lines.collect();
    lines.join("\n").replace("fuselm::", "crate::")
}

/// Reads one tree of a `use` (`a::{b, c::d}`) or one path, from the start of `text`; adds the paths
/// in it to `found` and returns what comes after it.
fn tree<'a>(mut text: &'a str, mut path: Module, found: &mut Vec<Module>) -> &'a str {
    loop {
        text = text.trim_start();
        if let Some(mut group) = text.strip_prefix('{') {
            loop {
                group = tree(group, path.clone(), found).trim_start();
                match group.strip_prefix(',') {
                    Some(rest) if rest.trim_start().starts_with('}') => {
                        return &rest.trim_start()[1..];
                    }
                    Some(rest) => group = rest,
                    None => return group.strip_prefix('}').unwrap_or(group),
                }
            }
        }
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'));
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        if !word.is_empty() {
            path.push(word.to_owned());
        }
        match rest.strip_prefix("::") {
            Some(rest) => text = rest,
            None => {
                found.push(path);
                // `a as b`: the new name is not looked for.
                let renamed = rest.strip_prefix(" as ");
                let renamed = renamed.map(|r| r.trim_start_matches(|c: char| c.is_alphanumeric()));
                return renamed.unwrap_or(rest);
            }
        }
    }
}

/// All paths in a module that begin with `crate`, `super` or `self`, from the root.
fn paths(module: &Module, code: &str) -> Vec<Module> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                tree(&code[at..], Vec::new(), &mut found);
            }
        }
    }
    found.iter().map(|path| absolute(module, path)).collect()
}

fn absolute(module: &Module, path: &[String]) -> Module {
    let mut base = module.clone();
    let mut rest = path;
    while let [first, others @ ..] = rest {
        match first.as_str() {
            "crate" => base.clear(),
            "super" => drop(base.pop()),
            "self" => {}
            _ => break,
        }
        rest = others;
    }
    base.extend_from_slice(rest);
    base
}

/// The modules, and what each gives away under a name of its own.
struct House {
    modules: BTreeMap<Module, String>,
    exports: BTreeMap<Module, Module>,
}

impl House {
    fn read() -> Self {
        let modules = modules();
        let mut exports = BTreeMap::new();
        for (module, code) in &modules {
            for line in code.split(';') {
                let Some(at) = line.find("pub").filter(|at| line[*at..].contains("use ")) else {
                    continue;
                };
                let text = &line[at..];
                let text = &text[text.find("use ").unwrap() + 4..];
                let mut found = Vec::new();
                tree(text, Vec::new(), &mut found);
                for path in found {
                    let mut name = module.clone();
                    name.extend(path.last().cloned());
                    exports.insert(name, absolute(module, &path));
                }
            }
        }
        Self { modules, exports }
    }

    /// The module that has what `path` names.
    fn home(&self, path: &[String], depth: usize) -> Option<Module> {
        let length = (1..=path.len()).rev();
        let length = length
            .into_iter()
            .find(|n| self.modules.contains_key(&path[..*n]))?;
        let export = path.get(..=length).and_then(|name| self.exports.get(name));
        let further = export
            .filter(|_| depth < 5)
            .and_then(|to| self.home(to, depth + 1));
        Some(further.unwrap_or_else(|| path[..length].to_vec()))
    }

    /// Which modules each module imports.
    fn imports(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let modules = self.modules.iter();
        modules
            .map(|(module, code)| {
                let found = paths(module, code);
                let homes = found.iter().filter_map(|path| self.home(path, 0));
                (module, homes.filter(|home| home != module).collect())
            })
            .collect()
    }
}

/// The layers that `ARCHITECTURE.md` lists, the lowest first.
fn layers() -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).unwrap();
    let table = text.split("| rooms |").nth(1).unwrap();
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let rooms = row.split('|').nth(1).unwrap().split_whitespace();
        rooms
            .map(|room| room.trim_matches('`').to_owned())
            .collect()
    })
    .collect()
}

#[test]
fn imports_point_downwards() {
    let layers = layers();
    let layer = |room: &str| {
        let found = layers
            .iter()
            .position(|layer| layer.iter().any(|r| r == room));
        found.unwrap_or_else(|| panic!("the table in ARCHITECTURE.md has no room `{room}`"))
    };
    let house = House::read();
    let mut arrows = BTreeSet::new();
    let mut wrong = Vec::new();
    for (from, homes) in house.imports() {
        for to in homes.iter().filter(|to| to[0] != from[0]) {
            arrows.insert((from[0].clone(), to[0].clone()));
            if layer(&to[0]) >= layer(&from[0]) {
                wrong.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(
        arrows.len() > 60,
        "the test no longer sees imports: {arrows:?}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Adds what can be reached from `at`.
fn reach<'a>(
    graph: &'a BTreeMap<&Module, BTreeSet<Module>>,
    at: &Module,
    seen: &mut BTreeSet<&'a Module>,
) {
    for next in graph.get(at).into_iter().flatten() {
        // A folder's `mod.rs` is shared by its files.
        if next[0] == at[0] && !at.starts_with(next) && seen.insert(next) {
            reach(graph, next, seen);
        }
    }
}

#[test]
fn files_of_a_room_import_each_other_in_no_circle_without_a_reason() {
    let house = House::read();
    let graph = house.imports();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = graph
        .keys()
        .map(|module| {
            let mut seen = BTreeSet::new();
            reach(&graph, module, &mut seen);
            (*module, seen)
        })
        .collect();
    let mut circles = BTreeSet::new();
    for (module, seen) in &reached {
        let back = seen.iter().filter(|other| reached[*other].contains(module));
        let circle: BTreeSet<String> = back.map(|module| module.join("::")).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    let allowed = CIRCLES.map(|(files, _)| -> BTreeSet<&str> { files.split(' ').collect() });
    let within = |circle: &BTreeSet<String>, files: &BTreeSet<&str>| {
        circle.iter().all(|file| files.contains(file.as_str()))
    };
    let new = circles
        .iter()
        .filter(|circle| !allowed.iter().any(|files| within(circle, files)));
    let new: Vec<_> = new.collect();
    assert!(new.is_empty(), "circles without a reason: {new:#?}");
    let gone = allowed
        .iter()
        .filter(|files| !circles.iter().any(|circle| within(circle, files)));
    let gone: Vec<_> = gone.collect();
    assert!(
        gone.is_empty(),
        "no circles any more, remove their rows: {gone:#?}"
    );
}

#[test]
fn trees_of_imports_are_seen() {
    let module = vec!["m".to_owned(), "n".to_owned()];
    let text = "use crate::{a::{b, c as d}, e::f,\n g};\nuse super::h; // crate::i\n\
                x(super::i::j(1));\n#[cfg(test)]\nmod tests {\nuse crate::k;";
    let found = paths(&module, &code(text));
    let mut found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    found.sort();
    assert_eq!(found, ["a::b", "a::c", "e::f", "g", "m::h", "m::i::j"]);
}
