//! A restart comes to what a reload comes to: the same documents are served, in the same way, and nobody loses what they hold.
//!
//! What the next process cannot know is left out of these worlds: the contents of certificates and keys that were in memory and are not in their
//! files any more, what an API server had once, and the numbers by which the kernel's marks tell tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use durward_model::Bind;

use super::*;
use crate::compile::retained;
use crate::state::{State, Text};

/// Returns what another process begins from, given what `compiled` writes down.
fn restarted(compiled: &Compiled, world: &World) -> Compiled {
    let state = State::from_json(&compiled.state().to_json()).unwrap();
    let texts = state.texts.iter().enumerate();
    let parsed: Vec<_> = texts.map(|(at, text)| (at, document_again(text))).collect();
    let with_files = |documents| {
        let mut store = Store::default();
        store.apply(world.with_files(documents).since(&store));
        world.cluster.say(&mut store);
        store
    };
    retained::restored(&state, &parsed, with_files, NOW)
}

fn document_again(text: &Text) -> Document {
    let document = document_in(&text.file, text.text.to_string());
    let Some(id) = text.object.clone() else { return document };
    let source = Source::clone(&document.source);
    Document::of_object(id, Revision::default(), None, source, document.content)
}

/// Writes a value without the places it comes from, which make no difference.
fn shown(value: &impl fmt::Debug) -> String {
    let text = format!("{value:?}");
    let mut parts = text.split("origin: ");
    let mut written = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut depth = 0;
        // The place ends where its own braces are closed, or the next field begins.
        let end = part.find(|character| {
            let ends = depth == 0 && matches!(character, ',' | ' ');
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            ends && !part.starts_with("File {") && !part.starts_with("Object {")
                || character == '}' && depth == 0
        });
        written.push_str(&part[end.unwrap() + 1..]);
    }
    written
}

/// All that is served, and what became of the documents, by name.
fn served(compiled: &Compiled) -> BTreeMap<String, String> {
    let Snapshot { tenants, binds, nat, .. } = &*compiled.snapshot;
    let tenants = tenants.iter().map(|(id, tenant)| (format!("tenant {id}"), shown(tenant)));
    let binds = binds.iter().map(|(at, bind)| {
        let Bind { mode, listeners, owners, .. } = &**bind;
        let listeners: Vec<_> = listeners.iter().map(|one| (&one.tenant, one.key())).collect();
        (format!("socket {at}"), format!("{mode:?} {listeners:?} {owners:?}"))
    });
    let mappings = nat.mappings.iter().enumerate();
    let mappings = mappings.map(|(at, one)| (format!("mapping {at}"), shown(one)));
    let rules = nat.egress.iter().enumerate();
    let rules = rules.map(|(at, one)| (format!("egress rule {at}"), shown(one)));
    let verdicts = compiled.verdicts.iter().enumerate();
    let verdicts = verdicts.map(|(at, one)| {
        (format!("verdict {at}"), format!("{} {:?}", one.resource.name, one.outcome))
    });
    tenants.chain(binds).chain(mappings).chain(rules).chain(verdicts).collect()
}

/// Describes what the other compile serves otherwise than expected.
pub(super) fn difference(expected: &Compiled, other: &Compiled) -> Option<String> {
    let (expected, other) = (served(expected), served(other));
    let names: BTreeSet<_> = expected.keys().chain(other.keys()).collect();
    let differ = names.into_iter().filter(|name| expected.get(*name) != other.get(*name));
    let differ = differ.map(|name| {
        format!("{name}\n  expected: {:?}\n  found: {:?}\n", expected.get(name), other.get(name))
    });
    let differ: String = differ.collect();
    (!differ.is_empty()).then_some(differ)
}

pub(super) fn written_down(store: &Store) -> String {
    let documents = store.documents();
    documents.map(|one| format!("--- {}\n{}", one.source.file, one.source.text)).collect()
}

#[test]
fn a_restart_comes_to_what_a_reload_comes_to() {
    let cases = std::env::var("DURWARD_WORLDS").ok().and_then(|text| text.parse().ok());
    let cases = cases.unwrap_or(400);
    let faulty = Cell::new(0);
    let edits = prop::collection::vec((0..ALL, 0..24_usize, written()), 1..20);
    let world = prop::collection::vec((written(), prop::bool::weighted(0.8)), ALL..=ALL);
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });

    let result = runner.run(&(world, edits), |(world, edits)| {
        let slot =
            |(written, there)| (if there { Slot::Document(written) } else { Slot::Absent }, false);
        let mut world = World::new(world.into_iter().map(slot).collect());
        let mut sources = Sources::default();
        sources.say(&world);
        let mut running = compile(&sources.store, None, NOW);
        let mut restarting = running.clone();
        for edits in edits.chunk_by(|(at, ..), (next, ..)| at < next) {
            edits.iter().for_each(|edit| world.change(edit));
            let former = running;
            let was = sources.store.clone();
            sources.say(&world);
            let now = &sources.store;
            running = compile(now, Some(&former), NOW);
            restarting = compile(now, Some(&restarted(&restarting, &world)), NOW);
            if let Some(differ) = difference(&running, &restarting) {
                let (was, now) = (written_down(&was), written_down(now));
                prop_assert!(false, "restarted with each edit: {differ}\n{was}\n=====\n{now}");
            }

            let same = compile(now, Some(&running), NOW);
            let after = compile(now, Some(&restarted(&running, &world)), NOW);
            if let Some(differ) = difference(&same, &after) {
                let (was, now) = (written_down(&was), written_down(now));
                prop_assert!(false, "restart: {differ}\n{was}\n=====\n{now}");
            }
            faulty.set(faulty.get() + usize::from(!running.verdicts.all_accepted()));
        }
        Ok(())
    });

    assert!(result.is_ok(), "{}", result.unwrap_err());
    assert!(faulty.get() > cases as usize, "only {} steps with a mistake", faulty.get());
}
