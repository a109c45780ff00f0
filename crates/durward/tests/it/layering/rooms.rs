//! The rooms of the proxy, held by reading its sources: an import runs downwards only, in the order that ARCHITECTURE.md states.
//!
//! A room is a module of the crate's root with all that is below it. Tests are no part of a room; they may import whatever they set up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::{root, text};

/// The sources whose rooms are held.
const SOURCES: &str = "crates/durward-proxy/src";
/// The heading of the section of ARCHITECTURE.md that states the order.
const HEADING: &str = "## Rooms of the proxy";

#[test]
fn no_room_of_the_proxy_imports_one_above_it() {
    let order = order(&text("ARCHITECTURE.md"));
    let files = files(&root().join(SOURCES));

    let imports: Vec<_> = files.iter().flat_map(|file| file.imports()).collect();

    let upward: Vec<_> = imports.iter().filter_map(|import| import.fault(&order)).collect();
    assert!(imports.len() > 300, "only {} imports were found", imports.len());
    assert!(upward.is_empty(), "{}", upward.join("\n"));
}

#[test]
fn the_architecture_lists_every_room_of_the_proxy_once() {
    let listed = order(&text("ARCHITECTURE.md"));
    let face = text(&format!("{SOURCES}/lib.rs"));
    let declared: BTreeSet<_> = face
        .lines()
        .filter_map(|line| line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod "))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect();

    let known: BTreeSet<_> = listed.iter().cloned().collect();

    assert_eq!(known, declared);
    assert_eq!(known.len(), listed.len(), "a room is listed twice");
}

#[test]
fn an_upward_import_is_seen_however_it_is_written() {
    let order: Vec<_> = ["low", "middle", "high"].map(str::to_owned).into();
    let upward = [
        ("low", "use crate::high::Thing;"),
        ("low", "use crate::{middle};"),
        ("low", "pub(crate) use crate::{\n    low::Own,\n    high::{self, Thing},\n};"),
        ("middle", "fn f(thing: &crate::high::Thing) {}"),
        ("middle", "use super::high::Thing;"),
        ("middle::inner", "use super::super::high::Thing;"),
        ("middle::inner", "use super::super::{low, high};"),
        ("low", "use crate::attic::Thing;"),
    ];

    for (module, source) in upward {
        let faults: Vec<_> = file(module, source)
            .imports()
            .iter()
            .filter_map(|import| import.fault(&order))
            .collect();

        assert_eq!(faults.len(), 1, "{source}: {faults:?}");
    }
}

#[test]
fn imports_downwards_within_a_room_and_of_tests_are_free() {
    let order: Vec<_> = ["low", "middle", "high"].map(str::to_owned).into();
    let free = [
        ("high", "use crate::low::Thing;\nuse crate::middle;"),
        (
            "middle::inner",
            "use super::other::Thing;\nuse super::super::low;\nuse crate::middle::Own;",
        ),
        (
            "low",
            "//! See [`Thing`](crate::high::Thing).\n/// `crate::high`\nfn f() {} // crate::high::g",
        ),
        ("low", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::high::Thing;\n}"),
    ];

    for (module, source) in free {
        let file = file(module, source);

        let faults: Vec<_> =
            file.imports().iter().filter_map(|import| import.fault(&order)).collect();

        assert_eq!(faults, Vec::<String>::new(), "{source}");
    }
}

/// A source file of the crate.
struct File {
    path: PathBuf,
    /// Names of the modules it lies in and its own, from the crate's root.
    module: Vec<String>,
    source: String,
}

/// One use of a room's contents in a file of another.
#[derive(Debug)]
struct Import {
    path: PathBuf,
    from: String,
    to: String,
}

impl Import {
    /// Says what is wrong with the import, if anything is.
    fn fault(&self, order: &[String]) -> Option<String> {
        let floor = |room: &str| order.iter().position(|listed| listed == room);
        let Self { path, from, to } = self;
        let path = path.display();
        match (floor(from), floor(to)) {
            (Some(own), Some(other)) if other <= own => None,
            (Some(_), Some(_)) => {
                Some(format!("{path}: `{from}` imports `{to}`, which stands above it"))
            }
            (None, _) => Some(format!("{path}: ARCHITECTURE.md does not list `{from}`")),
            (_, None) => Some(format!("{path}: ARCHITECTURE.md does not list `{to}`")),
        }
    }
}

impl File {
    /// Returns the rooms it imports, its own left out.
    fn imports(&self) -> Vec<Import> {
        let code = code(&self.source);
        let climb = format!("{}::", vec!["super"; self.module.len()].join("::"));
        let rooms: BTreeSet<_> = ["crate::", &climb]
            .iter()
            .flat_map(|prefix| starts(&code, prefix))
            .flat_map(heads)
            .filter(|room| *room != self.module[0])
            .collect();
        rooms
            .into_iter()
            .map(|to| Import { path: self.path.clone(), from: self.module[0].clone(), to })
            .collect()
    }
}

/// Returns what follows each occurrence of `prefix` that is not the tail of a longer path.
fn starts<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
        (!inside).then(|| &code[at + prefix.len()..])
    })
}

/// Returns the first name of a path, or of each path of a group in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                names.push(name(&group[begins..at]));
                begins = at + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty() && name != "self");
    names
}

/// Returns the source without comments and without the tests at its end.
fn code(source: &str) -> String {
    let product = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    product
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |code, line| code + line + "\n")
}

/// Returns the rooms in the order that the page states, ground first: the names in the first column of the section's table.
fn order(page: &str) -> Vec<String> {
    let section = page.split(HEADING).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|row| row.split('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// Returns the product's files below a crate's `src`.
fn files(sources: &Path) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![sources.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if name == "tests" || name.ends_with("_tests") || name == "lib" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(sources).unwrap().with_extension("");
                let module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                let source = std::fs::read_to_string(&path).unwrap();
                found.push(File { path, module, source });
            }
        }
    }
    found
}

fn file(module: &str, source: &str) -> File {
    File {
        path: PathBuf::from("fake.rs"),
        module: module.split("::").map(str::to_owned).collect(),
        source: source.to_owned(),
    }
}
