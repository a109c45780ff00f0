//! Renders kustomizations and the chart with the tools their users have.
//!
//! Deliberately absent: a template engine of our own.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::root;

const CHART: &str = "deploy/helm/durward";

/// The objects of a kustomization; `None` where `kubectl` is missing.
pub(crate) fn kustomize(path: &str) -> Option<Vec<Value>> {
    kustomize_in(&root(), path)
}

/// The objects of a kustomization in a copy of `tree`, where `file` has another text in place of one.
pub(super) fn kustomize_edited(
    tree: &str,
    path: &str,
    file: &str,
    (text, other): (&str, &str),
) -> Option<Vec<Value>> {
    let copy = tempfile::tempdir().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join(tree)).arg(copy.path()).status();
    assert!(copied.unwrap().success());
    let folder = copy.path().join(Path::new(tree).file_name().unwrap());
    let content = std::fs::read_to_string(folder.join(file)).unwrap();
    assert!(content.contains(text), "{file}");
    std::fs::write(folder.join(file), content.replace(text, other)).unwrap();
    kustomize_in(&folder, path)
}

fn kustomize_in(folder: &Path, path: &str) -> Option<Vec<Value>> {
    if !kubectl_is_new_enough() {
        return skip("a kubectl of Kubernetes 1.25 or newer");
    }
    let output = Command::new("kubectl").args(["kustomize", path]).current_dir(folder).output();
    Some(objects(&success(output.expect("it has just told its version"))))
}

/// Distributions carry kubectl from before components; its kustomize says so by an older version, or none.
fn kubectl_is_new_enough() -> bool {
    let version = Command::new("kubectl").args(["version", "--client", "--output=json"]).output();
    let Ok(version) = version else { return false };
    let version: Value = serde_json::from_slice(&version.stdout).unwrap_or_default();
    let kustomize = version["kustomizeVersion"].as_str().unwrap_or_default();
    let mut numbers =
        kustomize.trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0));
    let (major, minor): (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (major, minor) >= (4, 5)
}

/// The objects of the chart with these values, released as `edge`; `None` where nothing can render it.
pub(super) fn helm(values: &Value) -> Option<Vec<Value>> {
    let output = run_helm(values)?;
    Some(objects(&success(output)))
}

/// What Helm says against these values.
pub(super) fn helm_refusal(values: &Value) -> Option<String> {
    let output = run_helm(values)?;
    assert!(!output.status.success(), "it was rendered");
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn run_helm(values: &Value) -> Option<Output> {
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    write!(file, "{values}").unwrap();
    let template = ["template", "edge", CHART, "--namespace", "durward", "--values"];
    let output = Command::new("helm").args(template).arg(file.path()).current_dir(root()).output();
    if let Ok(output) = output {
        return Some(output);
    }
    let Some(python) = python() else {
        return skip(
            "helm, or a Python as in tools/deploy-requirements.txt in DURWARD_DEPLOY_PYTHON",
        );
    };
    let script = ["tools/helm-render.py", CHART];
    Some(Command::new(python).args(script).arg(file.path()).current_dir(root()).output().unwrap())
}

/// What the published schema of a Kubernetes release has against the objects; `None` where no schemas are at hand.
pub(super) fn schema_complaints(objects: &[Value], release: &str) -> Option<Vec<String>> {
    let Some(python) = python() else {
        return skip(
            "schemas: a Python as in tools/deploy-requirements.txt in DURWARD_DEPLOY_PYTHON",
        );
    };
    let folder = tempfile::tempdir().unwrap();
    let files = objects.iter().enumerate().map(|(index, object)| {
        let file = folder.path().join(format!("{index}.json"));
        std::fs::write(&file, object.to_string()).unwrap();
        file
    });
    let output = Command::new(python)
        .args(["-m", "kubernetes_validate", "--strict", "-k", release])
        .args(files)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let (passed, others): (Vec<&str>, Vec<&str>) =
        said.lines().partition(|line| line.contains(" passed for resource "));
    let silent = (passed.len() != objects.len())
        .then(|| format!("{} of {} looked at", passed.len(), objects.len()));
    Some(others.into_iter().map(str::to_owned).chain(silent).collect())
}

fn python() -> Option<std::ffi::OsString> {
    std::env::var_os("DURWARD_DEPLOY_PYTHON")
}

pub(super) fn skip<T>(tool: &str) -> Option<T> {
    assert!(std::env::var_os("DURWARD_REQUIRE_RENDER").is_none(), "missing: {tool}");
    durward_testkit::netns::skip("rendering of manifests", &format!("no {tool}"));
    None
}

fn success(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// YAML documents, or JSON lines, which are YAML one by one.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    if text.starts_with('{') {
        return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    }
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}
