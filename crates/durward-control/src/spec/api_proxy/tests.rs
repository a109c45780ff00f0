use super::*;
use crate::document::Content;
use crate::spec::document;

fn plan_of(spec: &str) -> Result<Option<ApiProxyPlan>, Vec<String>> {
    let text = format!(
        "apiVersion: durward.dev/v1alpha1\nkind: HostedApi\nmetadata: {{name: t1}}\nspec: {{names: [T1.api.example.], upstream: {{}}, relay: {{certificate: {{file: r}}, clientAuthorities: {{caFile: c}}}}, {spec}}}\n"
    );
    let kind = durward_model::Kind::HostedApi;
    let source = document::source(kind, &"f".into(), text.into(), 1, Vec::new());
    let Content::HostedApi(hosted) = document::content(&source) else {
        panic!("{:?}", document::content(&source))
    };
    plan(&hosted.spec)
        .map_err(|faults| faults.iter().map(|it| format!("{} {}", it.field, it.sentence)).collect())
}

// S4.28+ S4.29+ S4.30+ S4.31+
#[test]
fn a_plan_has_defaults_and_takes_every_override() {
    let least = plan_of("kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, advertiseAddresses: [172.31.255.1]}").unwrap().unwrap();
    let most = plan_of(
        "port: 8443, mode: Slice, kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, image: 'registry.example/durward:1.2@sha256:00', port: 7443, podCidrs: [10.244.0.0/16], serviceCidrs: [10.96.0.0/16, 'fd00::/108'], gateways: [gw-1.example, 'gw-2.example:8443', '[fd00::1]:443'], internalEndpoint: 10.40.0.201, hostAliases: [{ip: 10.0.0.50, hostnames: [t1.api.example, k.example]}], replicas: 2, resources: {requests: {cpu: 10m}, limits: {memory: 64Mi}}}",
    )
    .unwrap()
    .unwrap();

    assert_eq!(least.gateways, [("t1.api.example".to_owned(), 443)]);
    assert_eq!((least.mode, least.port, least.replicas), (ModeSpec::Advertised, 6443, None));
    assert_eq!(least.server_name, "t1.api.example");
    let gateways: Vec<String> =
        most.gateways.iter().map(|(host, port)| shown(host, *port)).collect();
    assert_eq!(gateways, ["gw-1.example:443", "gw-2.example:8443", "[fd00::1]:443"]);
    assert_eq!(most.internal_endpoint.as_deref(), Some("10.40.0.201"));
    assert_eq!((most.port, most.replicas), (7443, Some(2)));
    assert_eq!(most.host_aliases[0].1, ["t1.api.example", "k.example"]);
    assert_eq!(plan_of("idleTimeout: 1h"), Ok(None));
}

#[test]
fn a_secret_may_have_dots_in_its_name() {
    let plan = plan_of(
        "kubeconfigSecretName: t1.admin.conf, mode: Slice, apiProxy: {certificateSecretName: t1.proxy}",
    );

    let plan = plan.unwrap().unwrap();
    assert_eq!(
        (&*plan.kubeconfig_secret, &*plan.certificate_secret),
        ("t1.admin.conf", "t1.proxy")
    );
}

/// What does not fit, and what is said of it.
const UNFITTING: &[(&str, &str)] = &[
    ("mode: Slice", "spec.mode needs apiProxy"),
    ("kubeconfigSecretName: k", "spec.kubeconfigSecretName needs apiProxy"),
    ("apiProxy: {certificateSecretName: c}", "spec.apiProxy needs kubeconfigSecretName"),
    (
        "kubeconfigSecretName: ../k, mode: Slice, apiProxy: {certificateSecretName: c}",
        "spec.kubeconfigSecretName \"../k\" is no name",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: a/c}",
        "spec.apiProxy.certificateSecretName \"a/c\" is no name",
    ),
    (
        "kubeconfigSecretName: k, apiProxy: {certificateSecretName: c}",
        "spec.apiProxy.advertiseAddresses is missing",
    ),
    (
        "kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, advertiseAddresses: [127.0.0.1]}",
        "advertiseAddresses[0] 127.0.0.1 cannot be an endpoint",
    ),
    (
        "kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, advertiseAddresses: ['fe80::1']}",
        "advertiseAddresses[0] fe80::1 cannot",
    ),
    (
        "kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, advertiseAddresses: [10.96.0.9], serviceCidrs: [10.96.0.0/16]}",
        "10.96.0.9 is in 10.96.0.0/16",
    ),
    (
        "kubeconfigSecretName: k, apiProxy: {certificateSecretName: c, advertiseAddresses: [172.31.0.1], replicas: 2}",
        "spec.apiProxy.replicas does not fit",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, replicas: 0}",
        "spec.apiProxy.replicas is 0",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, advertiseAddresses: [172.31.0.1]}",
        "is for mode Advertised",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, servingSecretName: s}",
        "spec.apiProxy.servingSecretName is for mode Reoriginate",
    ),
    (
        "kubeconfigSecretName: k, mode: Reoriginate, apiProxy: {certificateSecretName: c}",
        "spec.apiProxy.servingSecretName is missing",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, image: 'a b'}",
        "spec.apiProxy.image \"a b\" is no name",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, gateways: ['a b']}",
        "spec.apiProxy.gateways[0] \"a b\" is not HOST",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, gateways: ['a:0']}",
        "is not HOST",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, internalEndpoint: '--x'}",
        "internalEndpoint",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, hostAliases: [{ip: a, hostnames: []}]}",
        "spec.apiProxy.hostAliases[0].ip",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, hostAliases: [{ip: 10.0.0.1, hostnames: ['a\\nb']}]}",
        "hostAliases[0].hostnames[0]",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, podCidrs: [10.0.0.0/33]}",
        "spec.apiProxy.podCidrs[0]",
    ),
    (
        "kubeconfigSecretName: k, mode: Slice, apiProxy: {certificateSecretName: c, port: 0}",
        "spec.apiProxy.port is 0",
    ),
];

#[test]
fn what_does_not_fit_is_said_of_its_field() {
    for (spec, wanted) in UNFITTING {
        let faults = plan_of(spec).unwrap_err();

        assert!(faults.iter().any(|fault| fault.contains(wanted)), "{spec}: {faults:#?}");
    }
}
