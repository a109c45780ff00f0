//! The documents tell the truth where a machine can see it: links lead somewhere, paths exist, commands are commands.
//!
//! Deliberately absent: a judgement of the prose.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use durward_control::{FileSource, compile};
use serde_json::Value;

use crate::deploy::{find, objects};
use crate::{root, text};

/// Documents with commands that people copy.
pub(crate) const GUIDES: &[&str] = &[
    "README.md",
    "docs/guide/getting-started.md",
    "docs/guide/ingress.md",
    "docs/guide/tls.md",
    "docs/guide/egress.md",
    "docs/guide/nat.md",
    "docs/guide/operations.md",
    "docs/guide/records.md",
    "docs/guide/hosted-api.md",
    "docs/guide/hosted-api-reach.md",
    "deploy/README.md",
];

#[test]
fn passive_ejection_and_retries_are_on_by_default_and_the_reference_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let tenant = "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec:\n  \
                  ingress: [{address: 127.0.0.1, port: 80, protocol: HTTP, routes: [{upstream: app}]}]\n  \
                  upstreams: {app: {endpoints: ['10.0.0.1:80', '10.0.0.2:80']}}\n  egress: {addresses: [127.0.0.1]}\n";
    std::fs::write(folder.path().join("acme.yaml"), tenant).unwrap();
    let resources = FileSource::default().load(&[folder.path().to_owned()]);

    let compiled = compile(&resources, None, 1_800_000_000);

    let tenant = compiled.snapshot.tenants.values().next().expect("it is served");
    let upstream = &tenant.upstreams[0];
    let outlier = upstream.outlier.as_ref().expect("passive ejection is on");
    let page = text("docs/reference/configuration.md");
    let default = |field: &str| {
        let row = page.lines().find(|line| line.starts_with(&format!("| {field} |"))).expect(field);
        row.trim_end_matches(" |").rsplit(" | ").next().unwrap().to_owned()
    };
    assert_eq!(default("`outlierDetection`"), "on");
    let written = [
        ("`outlierDetection` `consecutiveFailures`", outlier.consecutive_failures.to_string()),
        ("`outlierDetection` `baseEjection`", format!("`{}s`", outlier.base_ejection.as_secs())),
        ("`outlierDetection` `maxEjectedPercent`", outlier.max_ejected_percent.to_string()),
        ("`retries` `attempts`", upstream.retry.attempts.to_string()),
        ("`retries` `budgetPercent`", upstream.retry.budget_percent.to_string()),
    ];
    for (field, value) in written {
        assert_eq!(default(field), value, "{field}");
    }
    assert!(outlier.max_ejected_percent > 0 && upstream.retry.attempts > 0);
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let mut links = 0;

    for page in &pages {
        let folder = page.parent().expect("a page is in a folder");
        for target in links_in(&std::fs::read_to_string(page).unwrap()) {
            let file = target.split('#').next().unwrap();
            links += 1;
            assert!(folder.join(file).exists(), "{}: {target} leads nowhere", page.display());
        }
    }

    assert!(pages.len() > 10 && links > 20, "{} pages, {links} links", pages.len());
}

// S1.69+
// S3.71
#[test]
fn the_documents_that_the_seed_refers_to_exist_and_the_guide_of_links_leads_there() {
    let guide = text("docs/guide/link.md");
    // Quick start, configuration, monitoring, architecture, implementation, controller endpoints.
    let documents = [
        "getting-started.md",
        "../reference/configuration.md",
        "operations.md",
        "../reference/metrics.md",
        "../../ARCHITECTURE.md",
        "../design/0007-the-link.md",
        "../reference/gateway-routes.openapi.yaml",
        "../../deploy/agent",
    ];
    for document in documents {
        assert!(links_in(&guide).contains(&document), "{document} is not linked");
        assert!(root().join("docs/guide").join(document).exists(), "{document}");
    }
}

#[test]
fn paths_in_commands_exist() {
    let mut seen = BTreeSet::new();

    for guide in GUIDES {
        for word in commands(guide).iter().flat_map(|line| line.split([' ', '='])) {
            if word.starts_with("deploy/") {
                assert!(root().join(word).exists(), "{guide}: {word} does not exist");
                seen.insert(word.to_owned());
            }
        }
    }

    assert!(seen.len() >= 6, "only {seen:?}");
}

// S2.61
#[test]
fn each_question_to_the_demonstration_program_has_a_command() {
    let guide = text("docs/guide/egress.md");
    let section = guide.split("## In place of the demonstration program").nth(1).unwrap();
    let mut flags = 0;

    for endpoint in
        ["/", "/api/system", "/api/external-ip", "/api/test-ipinfo", "/api/test-httpbin"]
    {
        let row = section.lines().find(|row| row.contains(&format!("`{endpoint}`"))).unwrap();
        let command = row.split('`').find(|part| part.starts_with("durward ")).unwrap();
        let words: Vec<&str> = command.split(' ').collect();
        let help = Command::new(env!("CARGO_BIN_EXE_durward"))
            .args(&words[1..3])
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        for flag in words.iter().filter(|word| word.starts_with('-')) {
            assert!(help.contains(flag), "{command}: {flag} is not known");
            flags += 1;
        }
    }

    assert!(flags >= 8, "only {flags} flags");
}

// S1.8 S1.16 S1.17+
#[test]
fn the_commands_for_the_seeds_objects_make_what_the_deployment_mounts() {
    let folder = tempfile::tempdir().unwrap();
    for tenant in ["tenant-A", "tenant-B"] {
        write_pair(folder.path(), tenant);
    }
    let lines = commands("docs/guide/operations.md");
    let creations: Vec<&String> =
        lines.iter().filter(|line| line.starts_with("kubectl create ")).collect();

    let mut made = Vec::new();
    for line in &creations {
        let words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let output = Command::new("kubectl")
            .args(words)
            .args(["--dry-run=client", "--output=yaml"])
            .current_dir(folder.path())
            .output();
        let Ok(output) = output else {
            assert!(std::env::var_os("DURWARD_REQUIRE_RENDER").is_none(), "missing: kubectl");
            durward_testkit::netns::skip("objects that the guides create", "no kubectl");
            return;
        };
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        made.extend(objects(&String::from_utf8(output.stdout).unwrap()));
    }

    let deployment = text("deploy/seed1/deployment.yaml");
    let secrets: Vec<&Value> = made.iter().filter(|object| object["kind"] == "Secret").collect();
    assert!(find(&made, "Namespace", "pingora-multitenant").is_some());
    assert_eq!(secrets.len(), 2);
    for secret in secrets {
        let name = secret["metadata"]["name"].as_str().unwrap();
        assert!(deployment.contains(&format!("name: {name}\n")), "{name} is not mounted");
        assert_eq!(secret["metadata"]["namespace"], "pingora-multitenant");
        assert!(secret["data"]["tls.crt"].is_string() && secret["data"]["tls.key"].is_string());
    }
}

fn write_pair(folder: &Path, name: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["198.51.100.2".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(folder.join(format!("{name}.crt")), certificate.pem()).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

/// The lines of a page's shell blocks.
pub(crate) fn commands(page: &str) -> Vec<String> {
    blocks(&text(page), "sh")
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The fenced blocks of a language.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in page.lines() {
        match (&mut current, line.strip_prefix("```")) {
            (None, Some(opened)) if opened == language => current = Some(String::new()),
            (Some(_), Some(_)) => found.extend(current.take()),
            (Some(block), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/guide", "docs/reference", "docs/design", "deploy"] {
        let entries = std::fs::read_dir(root().join(folder)).unwrap();
        let files = entries.map(|entry| entry.unwrap().path());
        found.extend(files.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    found
}

/// The targets of links within the repository.
fn links_in(page: &str) -> Vec<&str> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}
