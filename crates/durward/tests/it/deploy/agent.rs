//! The manifests of the agent in a private cluster.

use serde_json::{Value, json};

use super::render::schema_complaints;
use super::{RELEASES, find, kustomize};

const BASE: &str = "deploy/agent/base";
const PIPEOPS: &str = "deploy/agent/pipeops";

// S3.91+
#[test]
fn the_manifests_of_the_agent_have_the_schemas_of_all_releases() {
    for path in [BASE, PIPEOPS] {
        for release in RELEASES {
            let Some(objects) = kustomize(path) else { return };
            let Some(complaints) = schema_complaints(&objects, release) else { return };

            assert_eq!(complaints, Vec::<String>::new(), "{path} against {release}");
        }
    }
}

// S3.91+ S3.82+
#[test]
fn the_agent_runs_twice_without_rights_that_it_does_not_need() {
    for (path, name) in [(BASE, "durward-agent"), (PIPEOPS, "pipeops-agent")] {
        let Some(objects) = kustomize(path) else { return };

        let deployment = find(&objects, "Deployment", name).unwrap();
        assert_eq!(deployment["spec"]["replicas"], 2);
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["serviceAccountName"], name);
        let container = &pod["containers"][0];
        assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "admin", "{probe}");
        }
        assert!(find(&objects, "PodDisruptionBudget", name).is_some());
        let role = find(&objects, "ClusterRole", name).unwrap();
        let read = json!(["get", "list", "watch"]);
        let rules = role["rules"].as_array().unwrap();
        assert!(rules.iter().all(|rule| rule["verbs"] == read), "{rules:?}");
        let resources: Vec<&Value> =
            rules.iter().flat_map(|rule| rule["resources"].as_array().unwrap()).collect();
        assert_eq!(resources, ["ingresses", "services"]);
        let binding = find(&objects, "ClusterRoleBinding", name).unwrap();
        assert_eq!(binding["subjects"][0]["name"], name);
        assert_eq!(binding["subjects"][0]["namespace"], deployment["metadata"]["namespace"]);
        // The gateway's question about a public address reaches the agent.
        let proof = find(&objects, "Service", "durward-agent-proof").unwrap();
        assert_eq!(proof["spec"]["selector"], deployment["spec"]["selector"]["matchLabels"]);
        assert_eq!(proof["spec"]["ports"][0]["targetPort"], container["ports"][1]["name"]);
        let ingress = find(&objects, "Ingress", "durward-agent-proof").unwrap();
        assert_eq!(ingress["metadata"]["annotations"]["durward.dev/register"], "false");
        let rule = &ingress["spec"]["rules"][0];
        let backend = &rule["http"]["paths"][0]["backend"]["service"];
        assert_eq!(backend, &json!({"name": "durward-agent-proof", "port": {"name": "proof"}}));
        let files = objects.iter().find(|object| object["kind"] == "ConfigMap").unwrap();
        let file: Value =
            serde_saphyr::from_str(files["data"]["agent.yaml"].as_str().unwrap()).unwrap();
        assert_eq!(file["proof"]["host"], rule["host"]);
        let port = container["ports"][1]["containerPort"].to_string();
        assert!(file["proof"]["listen"].as_str().unwrap().ends_with(&port));
        // The token is the operator's: no Secret is in the manifests.
        assert!(objects.iter().all(|object| object["kind"] != "Secret"));
    }
}
