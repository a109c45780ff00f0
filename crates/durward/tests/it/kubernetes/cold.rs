//! A start over many objects whose statuses an earlier process has written.

use durward_testkit::kubernetes::ApiServer;

use super::*;

/// Objects of the cluster; `DURWARD_COLD_OBJECTS=100000` says another number.
const OBJECTS: usize = 400;
/// Objects of a tenant: its Namespace, itself and its policies.
const OF_EACH: usize = 10;
/// Resource types with a status.
const WITH_STATUS: [&str; 2] = ["tenants.durward.dev", "egresspolicies.durward.dev"];

/// Returns the objects of a tenant. All tenants share one socket.
fn objects(number: usize, listen: SocketAddr) -> Vec<Value> {
    let (name, namespace) = (format!("t{number}"), format!("n{number}"));
    let mut spec = spec(listen, "served");
    spec["ingress"][0]["address"] = json!(format!("10.7.{}.{}", number / 250, number % 250 + 1));
    spec["ingress"][0]["listen"] = json!({
        "address": listen.ip().to_string(), "destination": "ProxyProtocol", "trustedProxies": ["127.0.0.0/8"],
    });
    spec["namespace"] = json!(namespace);
    let ours = "durward.dev/v1alpha1";
    let policy = |at: usize| {
        let allow = json!([{"name": "one", "host": format!("h{at}.{name}.example")}]);
        json!({
            "apiVersion": ours, "kind": "EgressPolicy", "spec": {"allow": allow},
            "metadata": {"name": format!("p{at}"), "namespace": namespace, "generation": 1},
        })
    };
    let labels = json!({"durward.dev/tenant": name});
    let metadata = json!({"name": namespace, "labels": labels});
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
        json!({
            "apiVersion": ours, "kind": "Tenant", "spec": spec,
            "metadata": {"name": name, "generation": 1},
        }),
    ];
    objects.extend((0..OF_EACH - 2).map(policy));
    objects
}

/// Returns how many statuses had this result, as the gateway says.
fn statuses(cluster: &Cluster, result: &str) -> usize {
    let (_, metrics) = get(cluster.admin, "/metrics").unwrap_or_default();
    let name = format!("durward_kube_status_writes_total{{result=\"{result}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok());
    value.unwrap_or_default()
}

async fn until_statuses(cluster: &Cluster, result: &str, count: usize) {
    let patience = DEADLINE + Duration::from_millis(30) * u32::try_from(count).unwrap();
    let is_so = async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        statuses(cluster, result) >= count
    };
    let found = eventually(patience, is_so).await;
    assert!(found, "{} of {count} statuses are {result}", statuses(cluster, result));
}

fn double(cluster: &Cluster) -> &ApiServer {
    cluster.env.double().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_over_objects_whose_statuses_are_right_writes_none() {
    let objects_in_all = std::env::var("DURWARD_COLD_OBJECTS").ok();
    let objects_in_all = objects_in_all.and_then(|text| text.parse().ok()).unwrap_or(OBJECTS);
    let tenants = objects_in_all / OF_EACH;
    let env = TestEnv::on_double(ApiServer::settings()).await;
    let (kubeconfig, more) = (env.kubeconfig(), Arguments::new(&["--status-rate", "10000"], &[]));
    let mut cluster = Cluster::with(env, &kubeconfig, Form::OneProcess, more).await;
    cluster.kill();
    let listen = door();
    let all = (0..tenants).flat_map(|number| objects(number, listen));
    all.for_each(|one| double(&cluster).put(&one));
    cluster.start_again();
    let with_status = tenants * (OF_EACH - 1);
    until_statuses(&cluster, "written", with_status).await;
    let written = WITH_STATUS.map(|resource| double(&cluster).status_writes(resource));
    cluster.kill();
    double(&cluster).clear_log();

    cluster.start_again();
    until_statuses(&cluster, "unchanged", with_status).await;
    // Once this is said, everything has been looked at.
    let mut changed = objects(0, listen)[1]["spec"].clone();
    changed["ingress"][0]["routes"][0]["respond"]["body"] = json!("changed");
    cluster.apply("t0", &changed).await;
    cluster.until_condition("t0", "Ready", "True Ready").await;

    let twice: u64 = written.iter().map(|(_, same)| same).sum();
    assert_eq!(twice, 0, "of {written:?} none was written that was right");
    let after = WITH_STATUS.map(|resource| double(&cluster).status_writes(resource));
    assert_eq!(after, [(1, 0), (0, 0)], "only the changed tenant's status is written");
    assert_eq!(double(&cluster).writes("controllerrevisions.apps").1, 0);
}
