//! `durward init --kubernetes`: writes what is applied to a cluster, to be kept under version control and edited.
//!
//! The manifests are those of the repository, with the user's namespace and image in place of theirs.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::Init;
use crate::failure::{Exit, Failure};
use crate::output::Screen;

const TWO_PROCESSES: &str = include_str!("../../../../deploy/kubernetes/gateway.yaml");
const ONE_PROCESS: &str = include_str!("../../../../deploy/kubernetes/gateway-one-process.yaml");
const RIGHTS: &str = include_str!("../../../../deploy/kubernetes/rbac.yaml");
const ROLES: &str = include_str!("../../../../deploy/kubernetes/roles.yaml");
const SECRETS: &str = include_str!("../../../../deploy/kubernetes/tenant-secrets.yaml");

/// Namespace and image that the manifests of the repository have.
const NAMESPACE: &str = "durward";

/// The first tenant, to be edited.
const TENANT: &str = "\
# A namespace of the tenant, and the tenant. `kubectl explain tenant.spec` has every field.
apiVersion: v1
kind: Namespace
metadata:
  name: acme
  labels:
    durward.dev/tenant: acme
---
apiVersion: durward.dev/v1alpha1
kind: Tenant
metadata:
  name: acme
spec:
  ingress:
    - address: 198.51.100.2
      port: 80
      protocol: HTTP
      routes:
        - respond: {body: hello}
";

/// A file that is written.
struct File {
    name: &'static str,
    text: String,
}

/// Writes the files.
pub(crate) fn init(arguments: &Init) -> Result<Exit, Failure> {
    if !arguments.kubernetes {
        let message = "say what for: durward init --kubernetes (on a host, durward demo shows a first configuration)";
        return Err(Failure::usage(message));
    }
    let files = files(arguments)?;
    let fault = |error| Failure::broken(format!("writing to {}", arguments.out.display()), error);
    fs::create_dir_all(&arguments.out).map_err(fault)?;
    if let Some(there) = files.iter().find(|file| arguments.out.join(file.name).exists())
        && !arguments.force
    {
        let path = arguments.out.join(there.name);
        let message = format!("{} is there already: --force overwrites it", path.display());
        return Err(Failure::broken("writing manifests", message));
    }
    files.iter().try_for_each(|file| write(&arguments.out, file)).map_err(fault)?;
    print(arguments, &files)?;
    Ok(Exit::Ok)
}

fn write(out: &Path, file: &File) -> io::Result<()> {
    fs::write(out.join(file.name), &file.text)
}

fn print(arguments: &Init, files: &[File]) -> Result<(), Failure> {
    let mut screen = Screen::stdout();
    let out = arguments.out.display();
    for file in files {
        screen.line(format!("{out}/{}", file.name))?;
    }
    screen.line(format!("\nnext: kubectl apply --server-side -f {out}/definitions.yaml"))?;
    screen.line(format!("      kubectl apply -k {out}"))?;
    screen.line(format!("      kubectl apply -f {out}/tenant.yaml      (edit it first)"))
}

fn files(arguments: &Init) -> Result<Vec<File>, Failure> {
    let broken = |error: serde_saphyr::ser::Error| Failure::broken("writing manifests", error);
    let namespace = arguments.namespace.as_str();
    let mut definitions = durward_kube::crds::yaml().map_err(broken)?;
    if arguments.admission {
        definitions += &durward_kube::admission::yaml(namespace).map_err(broken)?;
    }
    let gateway = if arguments.one_process { ONE_PROCESS } else { TWO_PROCESSES };
    let place = |manifests: &str| placed(manifests, arguments);
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["gateway.yaml", "rights.yaml"],
    });
    Ok(vec![
        File { name: "definitions.yaml", text: definitions },
        File { name: "gateway.yaml", text: place(gateway)? },
        File { name: "rights.yaml", text: format!("{}---\n{}", place(RIGHTS)?, place(ROLES)?) },
        File { name: "tenant-secrets.yaml", text: place(SECRETS)? },
        File { name: "tenant.yaml", text: TENANT.to_owned() },
        File {
            name: "kustomization.yaml",
            text: serde_saphyr::to_string(&kustomization).map_err(broken)?,
        },
    ])
}

/// Returns manifests with the user's namespace and image.
fn placed(manifests: &str, arguments: &Init) -> Result<String, Failure> {
    let broken = |error: String| Failure::broken("writing manifests", error);
    let mut texts = Vec::new();
    for part in manifests.split("\n---\n") {
        let mut object: Value =
            serde_saphyr::from_str(part).map_err(|error| broken(error.to_string()))?;
        place(&mut object, arguments);
        texts.push(serde_saphyr::to_string(&object).map_err(|error| broken(error.to_string()))?);
    }
    Ok(texts.join("---\n"))
}

/// Puts the user's namespace and image in place of those of the repository.
fn place(object: &mut Value, arguments: &Init) {
    if object["kind"] == "Namespace" {
        object["metadata"]["name"] = json!(arguments.namespace);
    }
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten();
    for subject in subjects {
        subject["namespace"] = json!(arguments.namespace);
    }
    if let Some(own) = object.pointer_mut("/metadata/namespace").filter(|own| **own == NAMESPACE) {
        *own = json!(arguments.namespace);
    }
    let containers = object.pointer_mut("/spec/template/spec/containers");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        container["image"] = json!(arguments.image);
    }
}
