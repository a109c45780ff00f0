//! The example of clients in Terraform is well-formed, and what it gives is a configuration the gateway accepts.
//!
//! Deliberately absent: a cloud. What needs AWS stands in a file of its own, and is only looked at.

use std::path::Path;
use std::process::{Command, Output};

use durward_testkit::process::TempDir;

use crate::support::{output, stderr, stdout};
use crate::{root, text};

const EXAMPLE: &str = "deploy/terraform";

// S2.44
#[test]
fn clients_in_terraform_are_documents_the_gateway_accepts() {
    let Some(place) = copied() else { return };
    let folder = place.path().join("aws");

    let applied = terraform(&folder, &["apply", "-auto-approve", "-input=false"]);
    let configuration = terraform(&folder, &["output", "-raw", "configuration"]);
    let boot = stdout(&terraform(&folder, &["output", "-raw", "user_data"]));

    assert!(applied.status.success(), "{}", stderr(&applied));
    let file = place.write("clients.yaml", &configuration.stdout);
    let validated = output(&["validate", "-c", file.to_str().unwrap()]);
    assert_eq!(validated.status.code(), Some(0), "{}{}", stdout(&validated), stderr(&validated));
    for client in ["client-a", "client-b"] {
        assert!(stdout(&validated).contains(client), "{}", stdout(&validated));
    }
    let explained = output(&[
        "explain",
        "-c",
        file.to_str().unwrap(),
        "172.16.28.8:3128",
        "--client",
        "172.16.31.9",
        "--host",
        "hub.example:8443",
    ]);
    assert!(stdout(&explained).contains("client-b"), "{}", stdout(&explained));
    assert!(stdout(&explained).contains("policy_denied"), "that is client-a's to reach");
    assert!(boot.contains("ip address replace 172.16.28.21/32 dev ens5\n"), "{boot}");
}

// S2.44
#[test]
fn a_client_that_would_be_another_or_everybody_is_an_error_in_terraform() {
    let Some(place) = copied() else { return };
    let folder = place.path().join("aws");
    let given = text("deploy/terraform/aws/terraform.tfvars.example");
    for (good, bad, sentence) in [
        ("172.16.28.21", "172.16.28.20", "same private_address"),
        ("[\"172.16.31.0/24\"]", "[]", "at least one network"),
        ("client-b =", "Client_B =", "lower-case letters"),
    ] {
        assert!(given.contains(good), "{good}");
        std::fs::write(folder.join("terraform.tfvars"), given.replace(good, bad)).unwrap();

        let planned = terraform(&folder, &["plan", "-input=false"]);

        let said = stderr(&planned).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!planned.status.success() && said.contains(sentence), "{bad}: {said}");
    }
}

// S2.37+
#[test]
fn only_clients_networks_reach_the_port_by_the_security_group() {
    let aws = text("deploy/terraform/aws/main.tf");

    assert_eq!(aws.matches("resource \"aws_vpc_security_group_ingress_rule\"").count(), 1);
    assert_eq!(aws.matches("cidr_ipv4         = each.value\n").count(), 1);
    assert!(aws.contains("client.sources") && !aws.contains("0.0.0.0/0"), "{aws}");
    assert_eq!(aws.matches("3128").count(), 2, "from_port and to_port");
}

/// The example without what needs a provider, initialised; `None` where there is no terraform.
fn copied() -> Option<TempDir> {
    if Command::new("terraform").arg("version").env("CHECKPOINT_DISABLE", "1").output().is_err() {
        return super::render::skip("terraform");
    }
    let place = TempDir::new();
    for folder in ["tenant", "aws"] {
        std::fs::create_dir(place.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(root().join(EXAMPLE).join(folder)).unwrap() {
            let from = entry.unwrap().path();
            let name = from.file_name().unwrap().to_str().unwrap().replace(".example", "");
            if (folder, name.as_str()) != ("aws", "main.tf") {
                std::fs::copy(&from, place.path().join(folder).join(name)).unwrap();
            }
        }
    }
    let formatted = terraform(&root().join(EXAMPLE), &["fmt", "-check", "-recursive"]);
    assert!(formatted.status.success(), "{}", stdout(&formatted));
    let ready = terraform(&place.path().join("aws"), &["init", "-input=false"]);
    assert!(ready.status.success(), "{}", stderr(&ready));
    Some(place)
}

fn terraform(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("terraform");
    command.current_dir(folder).args(&arguments[..1]).arg("-no-color").args(&arguments[1..]);
    command.env("CHECKPOINT_DISABLE", "1").env("TF_IN_AUTOMATION", "1").output().unwrap()
}
