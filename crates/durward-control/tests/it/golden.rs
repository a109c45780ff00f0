//! Golden cases: each directory of `tests/cases` is a configuration; directories `1`, `2`, … in it follow one another in time.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use durward_control::{Compiled, FileSource, compile};

use crate::certificates::{self, NOW};
use crate::{cluster, describe};

// S5.35 S5.36 S5.37 S5.42
// S1.4 S1.5 S1.9 S1.17 S1.19 S1.21 S1.22 S1.30 S1.31 S1.34 S1.61 S1.63 S1.67
#[test]
fn every_case_compiles_as_its_golden_file_says() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let names = subdirectories(&cases);
    assert!(names.len() >= 25, "{} cases", names.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&cases);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);

    for case in names {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let outcome = play(&case);
        settings.bind(|| insta::assert_snapshot!(name, outcome));
    }
}

/// The outcome of each step of a case.
fn play(case: &Path) -> String {
    let root = tempfile::tempdir().unwrap();
    let stage = root.path().join("config");
    certificates::write_into(&stage.join("certs"));
    symlink("config/certs", root.path().join("certs")).unwrap();
    let steps = subdirectories(case);
    let steps = if steps.is_empty() { vec![case.to_owned()] } else { steps };
    let source = FileSource::default();
    let mut previous: Option<Compiled> = None;
    let mut outcome = String::new();
    for step in &steps {
        enter(step, &stage);
        let mut resources = source.load(std::slice::from_ref(&stage));
        cluster::say(step, &stage, &mut resources);
        let compiled = compile(&resources, previous.as_ref(), NOW);
        if steps.len() > 1 {
            writeln!(outcome, "=== {}", step.file_name().unwrap().to_string_lossy()).unwrap();
        }
        outcome.push_str(&describe::compiled(&compiled));
        let again = compile(&resources, Some(&compiled), NOW);
        assert_eq!(
            again.snapshot.generation,
            compiled.snapshot.generation,
            "{}: a second compile differs",
            step.display()
        );
        assert_eq!(
            again.verdicts,
            compiled.verdicts,
            "{}: a second verdict differs",
            step.display()
        );
        previous = Some(compiled);
    }
    outcome.replace(&format!("{}/", stage.display()), "").replace(&stage.display().to_string(), ".")
}

/// Replaces the stage's documents by those of the step.
fn enter(step: &Path, stage: &Path) {
    for entry in fs::read_dir(stage).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::remove_file(path).unwrap();
        }
    }
    for entry in fs::read_dir(step).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, stage.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}
