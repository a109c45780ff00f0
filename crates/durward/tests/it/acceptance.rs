//! The acceptance list: which test shows which item, written to `docs/acceptance.md` and kept true.
//!
//! Items are in `docs/acceptance/items-*.tsv`. A test names its items in a comment directly above its `fn` or attributes:
//! `// S1.33 S1.36`; `S1.33+` says that the test adds to what another shows and is not enough alone. `UPDATE_ACCEPTANCE=1` rewrites
//! the page. Deliberately absent: any judgement of what a test shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::{root, text};

const PAGE: &str = "docs/acceptance.md";
const PENDING: &str = "docs/acceptance/pending.txt";
/// File, title, and how many items the specification has.
const LISTS: &[(&str, &str, usize)] = &[
    ("docs/acceptance/items-1.tsv", "1: ingress by destination address", 71),
    ("docs/acceptance/items-2.tsv", "2: egress by the tenant's address", 61),
    ("docs/acceptance/items-3.tsv", "3: agents and tunnels of private clusters", 91),
    ("docs/acceptance/items-4.tsv", "4: hosted API servers by name", 72),
    ("docs/acceptance/items-5.tsv", "5: addresses and ports in the kernel", 76),
];

/// Item → tests that name it, and whether one of them is enough.
type Shown = BTreeMap<String, Tests>;

#[derive(Default)]
struct Tests {
    names: BTreeSet<String>,
    enough: bool,
}

fn is_shown(shown: &Shown, item: &str) -> bool {
    shown.get(item).is_some_and(|tests| tests.enough)
}

#[test]
fn the_acceptance_page_is_up_to_date() {
    let shown = scan();
    let pending = pending();
    if std::env::var_os("UPDATE_ACCEPTANCE").is_some() {
        let remaining: BTreeSet<String> =
            pending.iter().filter(|item| !is_shown(&shown, item)).cloned().collect();
        std::fs::write(root().join(PENDING), pending_text(&remaining)).unwrap();
        std::fs::write(root().join(PAGE), page(&shown, &remaining)).unwrap();
        return;
    }

    let current = text(PAGE);

    assert!(
        current == page(&shown, &pending),
        "{PAGE} is stale: UPDATE_ACCEPTANCE=1 cargo test -p durward --test it the_acceptance_page"
    );
}

#[test]
fn every_required_item_has_a_test_or_is_pending() {
    let shown = scan();
    let pending = pending();

    let items = items();
    let missing: Vec<_> = items
        .iter()
        .filter(|item| item.required && !is_shown(&shown, &item.id) && !pending.contains(&item.id))
        .map(|item| item.id.as_str())
        .collect();

    for (path, _, count) in LISTS {
        assert_eq!(list(path).len(), *count, "{path}");
    }
    assert!(missing.is_empty(), "no test carries {missing:?}");
}

#[test]
fn what_is_pending_has_no_test_yet() {
    let shown = scan();

    let done: Vec<_> = pending().into_iter().filter(|item| is_shown(&shown, item)).collect();

    assert!(
        done.is_empty(),
        "{done:?} have tests: UPDATE_ACCEPTANCE=1 takes them from {PENDING}, which only shrinks"
    );
}

#[test]
fn tests_and_the_pending_list_name_only_items_that_exist() {
    let known: BTreeSet<String> = items().into_iter().map(|item| item.id).collect();

    let named = scan().into_keys().chain(pending());
    let unknown: Vec<String> = named.filter(|id| listed(id) && !known.contains(id)).collect();

    assert!(unknown.is_empty(), "{unknown:?} are in no list");
}

#[test]
fn numbers_are_read_from_the_comment_above_a_test() {
    let source = "
        // S1.33 S1.36
        #[test]
        fn first() {}

        // Some reason.
        // S1.4, S2.1+
        #[tokio::test(flavor = \"current_thread\")]
        pub(crate) async fn second() {}

        // S1.5
        let not_a_function = 1;

        // S1.6

        fn separated() {}

        /// S1.7
        fn documented() {}

        // S1.8
        fn helper_without_test_attribute() {}
    ";

    let found = numbers_in(source);

    let expected =
        [("S1.33", "first"), ("S1.36", "first"), ("S1.4", "second"), ("S2.1+", "second")];
    assert_eq!(found, expected.map(|(item, test)| (item.to_owned(), test.to_owned())));
}

/// Whether its list is here already; tests may be ahead of it.
fn listed(item: &str) -> bool {
    LISTS.iter().any(|(path, ..)| path.contains(&format!("items-{}.", &item[1..2])))
}

struct Item {
    id: String,
    codes: String,
    required: bool,
    /// `here`, `partly`, `stands in` or `cluster`.
    reach: String,
    words: String,
    note: String,
}

fn items() -> Vec<Item> {
    LISTS.iter().flat_map(|(path, ..)| list(path)).collect()
}

fn list(path: &str) -> Vec<Item> {
    let rows = text(path);
    let rows = rows.lines().enumerate().skip(1).filter(|(_, row)| !row.is_empty());
    rows.map(|(line, row)| {
        let fields: Vec<&str> = row.split('\t').collect();
        let [id, codes, required, reach, words, note] = fields[..] else {
            panic!("{path}:{} has {} columns instead of 6", line + 1, fields.len());
        };
        assert!(matches!(required, "yes" | "no"), "{path}:{} required is {required:?}", line + 1);
        assert!(
            matches!(reach, "here" | "partly" | "stands in" | "cluster"),
            "{path}:{} reach is {reach:?}",
            line + 1
        );
        assert!(reach == "here" || !note.is_empty(), "{path}:{}: {reach} needs a note", line + 1);
        Item {
            id: id.to_owned(),
            codes: codes.to_owned(),
            required: required == "yes",
            reach: reach.to_owned(),
            words: words.to_owned(),
            note: note.to_owned(),
        }
    })
    .collect()
}

fn pending() -> BTreeSet<String> {
    let lines = text(PENDING);
    lines
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect()
}

fn pending_text(items: &BTreeSet<String>) -> String {
    let mut sorted: Vec<&String> = items.iter().collect();
    sorted.sort_by_key(|item| order(item));
    let head = "# Required items that no test shows yet. A list of items brings its own; from then on it only shrinks.\n";
    sorted.iter().fold(head.to_owned(), |text, item| text + item + "\n")
}

/// `S1.9` before `S1.10`.
fn order(item: &str) -> Vec<u32> {
    item[1..].split('.').filter_map(|part| part.parse().ok()).collect()
}

fn page(shown: &Shown, pending: &BTreeSet<String>) -> String {
    let mut page = String::from(
        "# Acceptance\n\n\
         Generated from the lists in [`acceptance/`](acceptance) and the numbers above tests; do not edit. To write it anew:\n\
         `UPDATE_ACCEPTANCE=1 cargo test -p durward --test it the_acceptance_page`.\n\n\
         *shown*: a test on this machine shows it. *partly*: tests show a part; the note says which, or the rest is pending. *stands in*: one machine cannot show it,\n\
         the note says what takes its place. *cluster*: it needs a Kubernetes API and comes with that issue. *missing*: no test yet.\n",
    );
    for (path, title, _) in LISTS {
        let items = list(path);
        let _ = write!(page, "\n## {title}\n\n{}\n", summary(&items, shown));
        page.push_str("\n| item | requirement | tests | state |\n|---|---|---|---|\n");
        for item in &items {
            page.push_str(&row(item, shown, pending));
        }
    }
    page
}

fn summary(items: &[Item], shown: &Shown) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for item in items {
        *counts.entry(state(item, shown)).or_default() += 1;
    }
    let counts: Vec<String> = ["shown", "partly", "stands in", "cluster", "missing"]
        .iter()
        .filter_map(|state| counts.get(state).map(|count| format!("{count} {state}")))
        .collect();
    format!("{} items: {}.", items.len(), counts.join(", "))
}

fn row(item: &Item, shown: &Shown, pending: &BTreeSet<String>) -> String {
    let tests = shown.get(&item.id).map_or_else(String::new, |tests| {
        tests.names.iter().map(|test| format!("`{test}`")).collect::<Vec<_>>().join("<br>")
    });
    let late = if pending.contains(&item.id) { " (pending)" } else { "" };
    let note = if item.note.is_empty() { String::new() } else { format!("<br>{}", item.note) };
    format!(
        "| {} ({}) | {} | {tests} | {}{late}{note} |\n",
        item.id,
        item.codes,
        item.words,
        state(item, shown)
    )
}

fn state(item: &Item, shown: &Shown) -> &'static str {
    match (item.reach.as_str(), shown.get(&item.id)) {
        ("cluster", _) => "cluster",
        (_, None) => "missing",
        (_, Some(tests)) if !tests.enough => "partly",
        ("here", _) => "shown",
        ("partly", _) => "partly",
        _ => "stands in",
    }
}

/// Item → tests, over all Rust sources of the repository.
fn scan() -> Shown {
    let mut shown = Shown::new();
    for directory in ["crates", "bench", "fuzz"] {
        // This file's own examples are no tests.
        for file in sources(&root().join(directory))
            .into_iter()
            .filter(|file| !file.ends_with("it/acceptance.rs"))
        {
            let name =
                file.strip_prefix(root()).expect("it lies below the root").display().to_string();
            let source = std::fs::read_to_string(&file).unwrap();
            for (item, test) in numbers_in(&source) {
                let tests = shown.entry(item.trim_end_matches('+').to_owned()).or_default();
                tests.names.insert(format!("{name} {test}"));
                tests.enough |= !item.ends_with('+');
            }
        }
    }
    shown
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The items named in comments directly above tests, with the tests' names.
fn numbers_in(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut waiting: Vec<String> = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let documentation = line.starts_with("///") || line.starts_with("//!");
        if let Some(comment) = line.strip_prefix("//").filter(|_| !documentation) {
            waiting.extend(
                comment.split([' ', ',', ';', ':']).filter(|word| is_item(word)).map(str::to_owned),
            );
        } else if let Some(name) = function_name(line) {
            let named = waiting.drain(..).filter(|_| is_test);
            found.extend(named.map(|item| (item, name.to_owned())));
            is_test = false;
        } else if line.starts_with("#[") {
            is_test |= is_test_attribute(line);
        } else if !documentation {
            waiting.clear();
            is_test = false;
        }
    }
    found
}

fn is_test_attribute(line: &str) -> bool {
    let name = line.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
    name == "test" || name.ends_with("::test") || name == "bench" || name.ends_with("::bench")
}

fn is_item(word: &str) -> bool {
    let Some((list, number)) = word.strip_prefix('S').and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    matches!(list, "1" | "2" | "3" | "4" | "5")
        && !number.is_empty()
        && number.strip_suffix('+').unwrap_or(number).bytes().all(|byte| byte.is_ascii_digit())
}

fn function_name(line: &str) -> Option<&str> {
    let words = ["pub(crate) ", "pub ", "async "];
    let line = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}
