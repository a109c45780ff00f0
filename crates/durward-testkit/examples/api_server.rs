//! The double of an API server as a process of its own, for `bench/kube`: so that its CPU is not the gateway's.
//!
//! It is told what to do on standard input, a line of JSON each: `{"define": "YAML of definitions"}`, `{"put": OBJECT}`, which stores it past every rule,
//! `{"forget": true}` (the counts so far) and `{"ask": true}`, which is answered with the counts. The first line that it prints is a kubeconfig. It ends with its input.

use std::io::{BufRead, Write};

use durward_testkit::kubernetes::ApiServer;
use serde_json::{Value, json};

/// Resource types whose statuses are counted.
const WITH_STATUS: [&str; 4] = [
    "tenants.durward.dev",
    "portmappings.durward.dev",
    "egresspolicies.durward.dev",
    "hostedapis.durward.dev",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::settings().history(200_000).start();
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", kubeconfig(&server))?;
    output.flush()?;
    for line in std::io::stdin().lock().lines() {
        let command: Value = serde_json::from_str(&line?)?;
        obey(&server, &command)?;
        if command["ask"] == true {
            writeln!(output, "{}", counts(&server))?;
            output.flush()?;
        }
    }
    Ok(())
}

fn obey(server: &ApiServer, command: &Value) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(yaml) = command["define"].as_str() {
        for definition in yaml.split("---\n").filter(|part| !part.trim().is_empty()) {
            server.put(&serde_saphyr::from_str(definition)?);
        }
    }
    if command["put"].is_object() {
        server.put(&command["put"]);
    }
    if command["forget"] == true {
        server.clear_log();
    }
    Ok(())
}

fn counts(server: &ApiServer) -> Value {
    let statuses = WITH_STATUS.map(|kind| server.status_writes(kind)).into_iter();
    let (changed, same): (Vec<u64>, Vec<u64>) = statuses.unzip();
    let revisions = server.writes("controllerrevisions.apps");
    json!({
        "watches": server.all_open_watches(),
        "connections": server.open_connections(),
        "statuses": {"changed": changed.iter().sum::<u64>(), "same": same.iter().sum::<u64>()},
        "revisions": revisions.0 + revisions.1,
        "requests": server.log().len(),
    })
}

fn kubeconfig(server: &ApiServer) -> Value {
    let token = server.token("kubernetes-admin", &["system:masters"]);
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": server.url()}}],
        "users": [{"name": "bench", "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    })
}
