//! Names of tenants and mappings: a document in another file takes none, whatever it says and whatever becomes of the first one.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use durward_control::{Compiled, FileSource, Publisher, State, compile};
use durward_model::verdict::Outcome;

use super::{errors, id, mapping, tenant};
use crate::certificates::NOW;

/// A directory for each author.
struct Authors {
    root: tempfile::TempDir,
    source: FileSource,
    publisher: Publisher,
}

impl Authors {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for author in ["a-mallory", "victim"] {
            fs::create_dir(root.path().join(author)).unwrap();
        }
        Self { root, source: FileSource::default(), publisher: Publisher::new() }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.root.path().join(file), text).unwrap();
    }

    fn reload(&self) -> Arc<Compiled> {
        let paths: Vec<PathBuf> =
            ["a-mallory", "victim"].iter().map(|author| self.root.path().join(author)).collect();
        self.publisher.reload(&self.source.load(&paths), NOW)
    }

    /// Goes on in another process, which knows only what the last one handed on.
    fn restart(mut self) -> Self {
        let state = State::from_json(&self.publisher.current().state().to_json()).unwrap();
        let source = FileSource::default();
        self.publisher = Publisher::after(compile::retained::restore(&state, &source, NOW));
        self.source = source;
        self
    }
}

fn v(port: u16) -> String {
    let spec = format!(
        "{{ingress: [{{address: 198.51.100.2, port: {port}, protocol: HTTP, redirectToHttps: true}}]}}"
    );
    let mapped =
        "{tenant: v, addresses: [198.51.100.4], endpoints: [10.0.0.1], ports: [{port: 25}]}";
    tenant("v", &spec) + &mapping("mail", mapped)
}

fn port(compiled: &Compiled) -> Option<u16> {
    Some(compiled.snapshot.tenants.get(&id("v"))?.listeners.first()?.port)
}

#[test]
fn a_copy_of_a_document_takes_its_name_neither_when_it_is_edited_nor_when_its_file_is_renamed() {
    let authors = Authors::new();
    authors.write("victim/v.yaml", &v(80));
    authors.reload();
    authors.write("a-mallory/m.yaml", &v(80));
    authors.reload();

    authors.write("victim/v.yaml", &v(81));
    let edited = authors.reload();

    assert_eq!(port(&edited), Some(81));
    assert_eq!(errors(&edited, "m.yaml").len(), 2, "{:#?}", edited.verdicts);
    let at = |name: &str| authors.root.path().join("victim").join(name);
    fs::rename(at("v.yaml"), at("w.yaml")).unwrap();
    authors.write("victim/w.yaml", &v(82));
    let renamed = authors.reload();
    assert_eq!(port(&renamed), Some(82), "{:#?}", renamed.verdicts);
    authors.write("a-mallory/m.yaml", &v(83));
    assert_eq!(port(&authors.reload()), Some(82));
    // What is deleted is free.
    fs::remove_file(at("w.yaml")).unwrap();
    assert_eq!(port(&authors.reload()), Some(83));
}

#[test]
fn a_document_that_is_broken_keeps_its_name_from_another_with_it() {
    let nameless = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nspec: {a";
    let broken = v(80).replace("spec: {ingress", "spec: {nonsense: 1, ingress");
    for text in ["", "\n\n", nameless, "\u{0}", &broken] {
        for restarted in [false, true] {
            let mut authors = Authors::new();
            authors.write("victim/v.yaml", &v(80));
            let before = authors.reload();
            assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);
            authors.write("a-mallory/m.yaml", &v(83));
            authors.reload();

            authors.write("victim/v.yaml", text);
            if restarted {
                authors = authors.restart();
            }
            for _ in 0..2 {
                let kept = authors.reload();
                assert_eq!(port(&kept), Some(80), "{text:?} {restarted}: {:#?}", kept.verdicts);
                assert_eq!(kept.snapshot.nat.mappings.len(), 1, "{text:?}");
                let reasons = errors(&kept, "m.yaml").into_iter().map(|error| &*error.reason);
                assert_eq!(reasons.collect::<Vec<_>>(), ["NameTaken", "NameTaken"], "{text:?}");
            }
            authors.write("victim/v.yaml", &v(81));
            let mended = authors.reload();
            assert_eq!(port(&mended), Some(81), "{text:?} {restarted}");
            assert_eq!(mended.verdicts.iter().nth(2).unwrap().outcome, Outcome::Accepted);
        }
    }
}
