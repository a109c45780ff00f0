//! No name in any field lets a tenant have what is another's, whatever that one grants.
//!
//! Which fields name something is found out: those whose text decides what a document asks for. A new one turns the table red.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use durward_control::reference::Reference;
use durward_model::Kind;
use serde_json::Value;

use super::examples::{Example, examples};
use super::world::World;
use super::{Spot, Step, schemas, spots_of};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];

/// Spellings of a field for a pair of tenants, in a turn of a usual run.
const IN_TURN: usize = 1;

/// Fields that name something of a cluster or of a tenant's links: the kind, the field, and the things that it names.
const FIELDS: &[(&str, &str, &str)] = &[
    ("EgressPolicy", ".allow[].hostsFile", "ConfigMap"),
    ("EgressPolicy", ".deny[].hostsFile", "ConfigMap"),
    ("HostedApi", ".konnectivity.service.name", "Service"),
    ("HostedApi", ".konnectivity.service.namespace", "Grant Namespace Service"),
    ("HostedApi", ".konnectivity.service.port", "Service"),
    ("HostedApi", ".relay.certificate.acme.accountKeyFile", "Secret"),
    ("HostedApi", ".relay.certificate.certificateFile", "Secret"),
    ("HostedApi", ".relay.certificate.file", "Secret"),
    ("HostedApi", ".relay.certificate.keyFile", "Secret"),
    ("HostedApi", ".relay.certificate.secretName", "Secret"),
    ("HostedApi", ".relay.clientAuthorities.caFile", "ConfigMap"),
    ("HostedApi", ".relay.clientAuthorities.caFiles[]", "ConfigMap"),
    ("HostedApi", ".relay.clientAuthorities.crlFile", "ConfigMap"),
    ("HostedApi", ".relay.clientAuthorities.crlFiles[]", "ConfigMap"),
    ("HostedApi", ".upstream.caFile", "ConfigMap"),
    ("HostedApi", ".upstream.service.name", "Service"),
    ("HostedApi", ".upstream.service.namespace", "Grant Namespace Service"),
    ("HostedApi", ".upstream.service.port", "Service"),
    ("Ingress", ".defaultBackend.service.name", "Service"),
    ("Ingress", ".rules[].http.paths[].backend.service.name", "Service"),
    ("Ingress", ".rules[].http.paths[].backend.service.port.name", "Service"),
    ("Ingress", ".tls[].secretName", "Secret"),
    ("IngressRouteTCP", ".routes[].services[].name", "Service"),
    ("IngressRouteTCP", ".routes[].services[].port", "Service"),
    ("Mapping", ".serviceName", "Service"),
    ("PortMapping", ".ports[].service.name", "Service"),
    ("PortMapping", ".ports[].service.namespace", "Grant Namespace Service"),
    ("PortMapping", ".ports[].service.port", "Service"),
    ("TLSRoute", ".rules[].backendRefs[].name", "Service"),
    ("Tenant", ".egress.allow[].hostsFile", "ConfigMap"),
    ("Tenant", ".egress.deny[].hostsFile", "ConfigMap"),
    ("Tenant", ".egress.parents[].credentialFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificate.acme.accountKeyFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificate.certificateFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificate.file", "Secret"),
    ("Tenant", ".egress.proxy[].certificate.keyFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificate.secretName", "Secret"),
    ("Tenant", ".egress.proxy[].certificates[].acme.accountKeyFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificates[].certificateFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificates[].file", "Secret"),
    ("Tenant", ".egress.proxy[].certificates[].keyFile", "Secret"),
    ("Tenant", ".egress.proxy[].certificates[].secretName", "Secret"),
    ("Tenant", ".egress.proxy[].clientCertificates.caFile", "ConfigMap"),
    ("Tenant", ".egress.proxy[].clientCertificates.caFiles[]", "ConfigMap"),
    ("Tenant", ".egress.proxy[].clientCertificates.crlFile", "ConfigMap"),
    ("Tenant", ".egress.proxy[].clientCertificates.crlFiles[]", "ConfigMap"),
    ("Tenant", ".egress.proxy[].credentials.file", "Secret"),
    ("Tenant", ".egress.resolverCaFile", "ConfigMap"),
    ("Tenant", ".ingress[].agentAuthority.acme.accountKeyFile", "Secret"),
    ("Tenant", ".ingress[].agentAuthority.certificateFile", "Secret"),
    ("Tenant", ".ingress[].agentAuthority.file", "Secret"),
    ("Tenant", ".ingress[].agentAuthority.keyFile", "Secret"),
    ("Tenant", ".ingress[].agentAuthority.secretName", "Secret"),
    ("Tenant", ".ingress[].backendTls.caFile", "ConfigMap"),
    ("Tenant", ".ingress[].certificate.acme.accountKeyFile", "Secret"),
    ("Tenant", ".ingress[].certificate.certificateFile", "Secret"),
    ("Tenant", ".ingress[].certificate.file", "Secret"),
    ("Tenant", ".ingress[].certificate.keyFile", "Secret"),
    ("Tenant", ".ingress[].certificate.secretName", "Secret"),
    ("Tenant", ".ingress[].certificates[].acme.accountKeyFile", "Secret"),
    ("Tenant", ".ingress[].certificates[].certificateFile", "Secret"),
    ("Tenant", ".ingress[].certificates[].file", "Secret"),
    ("Tenant", ".ingress[].certificates[].keyFile", "Secret"),
    ("Tenant", ".ingress[].certificates[].secretName", "Secret"),
    ("Tenant", ".ingress[].clientCertificates.caFile", "ConfigMap"),
    ("Tenant", ".ingress[].clientCertificates.caFiles[]", "ConfigMap"),
    ("Tenant", ".ingress[].clientCertificates.crlFile", "ConfigMap"),
    ("Tenant", ".ingress[].clientCertificates.crlFiles[]", "ConfigMap"),
    ("Tenant", ".ingress[].directRoutes.caFile", "ConfigMap"),
    ("Tenant", ".ingress[].linkRoutes[]", "LinkRoutes"),
    ("Tenant", ".namespace", "ConfigMap Grant Namespace Secret"),
    ("Tenant", ".upstreams.*.service.name", "Service"),
    ("Tenant", ".upstreams.*.service.namespace", "Grant Namespace Service"),
    ("Tenant", ".upstreams.*.service.port", "Service"),
    ("Tenant", ".upstreams.*.tls.caFile", "ConfigMap"),
    ("Tenant", ".upstreams.*.tls.clientCertificate.acme.accountKeyFile", "Secret"),
    ("Tenant", ".upstreams.*.tls.clientCertificate.certificateFile", "Secret"),
    ("Tenant", ".upstreams.*.tls.clientCertificate.file", "Secret"),
    ("Tenant", ".upstreams.*.tls.clientCertificate.keyFile", "Secret"),
    ("Tenant", ".upstreams.*.tls.clientCertificate.secretName", "Secret"),
];

/// Fields that name a Secret of the object's own namespace, for the installer of API proxies.
const OWN_NAMES: [&str; 3] =
    [".kubeconfigSecretName", ".apiProxy.certificateSecretName", ".apiProxy.servingSecretName"];

/// Returns the kind of a thing that is named. A new kind does not compile without a place here.
fn kind_of(reference: &Reference) -> Option<&'static str> {
    match reference {
        // An object names no file, which the world of these tests holds it to.
        Reference::File(_) => None,
        // These two are asked for together with what they are about.
        Reference::Namespace(_) => Some("Namespace"),
        Reference::Grant(_) => Some("Grant"),
        Reference::Secret { .. } => Some("Secret"),
        Reference::ConfigMap { .. } => Some("ConfigMap"),
        Reference::Service { .. } => Some("Service"),
        Reference::LinkRoutes { .. } => Some("LinkRoutes"),
    }
}

/// Returns spellings of the thing of another tenant that a text names as one's own.
fn spellings(text: &str, own: &str, other: &str) -> Vec<String> {
    // The name in `all`, `secret:all/tls`, `pay` or `onprem`.
    let start = text.find(':').map_or(0, |at| at + 1);
    let (scheme, name) = text.split_at(start);
    let mut spelt: Vec<String> = [
        format!("{other}/{name}"),
        format!("../{other}/{name}"),
        format!("../{name}"),
        format!("/{other}/{name}"),
        format!("{other}//{name}"),
        format!("{other}%2f{name}"),
        format!("{other}\\{name}"),
        format!("{own}/../{other}/{name}"),
        format!("{other}.{name}"),
        format!("{}/{name}", other.to_uppercase()),
        format!(" {other}/{name}"),
        format!("{other}/{name} "),
        format!("{other}/{name}\n"),
    ]
    .map(|name| format!("{scheme}{name}"))
    .into();
    spelt.push(other.to_owned());
    spelt.push(format!("{other}\n"));
    spelt
}

/// Returns the example as an object of another tenant than the one it is written for.
fn of(example: &Example, own: &str) -> Value {
    serde_json::from_str(&example.whole.to_string().replace("acme", own)).unwrap()
}

fn text_at<'v>(whole: &'v Value, spot: &Spot) -> Option<&'v str> {
    let step = |value: &'v Value, step: &Step| match step {
        Step::Key(key) => value.get(key),
        Step::At(at) => value.get(at),
    };
    spot.path.iter().try_fold(whole, step)?.as_str()
}

/// An example with the places in it that name something, each with the kinds of things.
type Naming = (Example, Vec<(Spot, Vec<&'static str>)>);

/// Returns the kinds of things that are asked for by another text in a place, and were not before.
fn named(example: &Example, spot: &Spot, before: &BTreeSet<Reference>) -> Vec<&'static str> {
    let text = text_at(&example.whole, spot).filter(|_| !spot.is_key);
    let others = match text {
        Some(text) if text.contains("all") => vec![text.replacen("all", "other", 1)],
        Some(text) => vec![format!("{text}x"), "globex".to_owned()],
        None => Vec::new(),
    };
    let asked = |other: &String| example.document(&spot.with(&example.whole, other)).wanted();
    let asked: BTreeSet<Reference> = others.iter().flat_map(asked).collect();
    let kinds: BTreeSet<&str> = asked.difference(before).filter_map(kind_of).collect();
    kinds.into_iter().collect()
}

/// Returns the places that name something, one of each field.
fn naming() -> &'static [Naming] {
    static NAMING: OnceLock<Vec<Naming>> = OnceLock::new();
    NAMING.get_or_init(|| {
        let (schemas, mut seen) = (schemas(), BTreeSet::new());
        let of_example = |example: Example| {
            let before = example.document(&example.whole).wanted();
            let spots = spots_of(&example, &schemas).into_iter();
            let new = spots.filter(|spot| seen.insert((example.kind, spot.field.clone())));
            let named = new.map(|spot| (spot.clone(), named(&example, &spot, &before)));
            let named = named.filter(|(_, kinds)| !kinds.is_empty()).collect();
            (example, named)
        };
        examples().into_iter().map(of_example).collect()
    })
}

#[test]
fn the_fields_that_name_something_are_known() {
    let mut found: Vec<(String, String, String)> = Vec::new();
    for (example, spots) in naming() {
        found.extend(
            spots.iter().map(|(spot, kinds)| {
                (example.kind.to_string(), spot.field.clone(), kinds.join(" "))
            }),
        );
    }
    found.sort();
    found.dedup();

    let known: Vec<(String, String, String)> = FIELDS
        .iter()
        .map(|(kind, field, names)| [kind, field, names].map(|it| (*it).to_owned()).into())
        .collect();
    assert_eq!(found, known);
    for kind in ["Secret", "ConfigMap", "Service", "Namespace", "LinkRoutes"] {
        assert!(FIELDS.iter().any(|(.., names)| names.contains(kind)), "nothing names a {kind}");
    }
}

/// Returns what is wrong with what a tenant has by naming what is another's; nothing if all is well.
fn fault(world: &World, example: &Example, whole: &Value, others: &str) -> Option<String> {
    let [own, other] = world.tenants;
    let served = world.serve(example.document_of(own, whole));
    let is_theirs = |reference: &&Reference| match reference {
        Reference::Secret { namespace, .. }
        | Reference::ConfigMap { namespace, .. }
        | Reference::Service { namespace, .. } => **namespace == *other,
        Reference::LinkRoutes { tenant, .. } => **tenant == *other,
        Reference::File(_) | Reference::Namespace(_) | Reference::Grant(_) => false,
    };
    // Their own documents ask for the Service behind their own listener.
    let theirs = |reference: &&Reference| matches!(reference, Reference::Service { name, .. } if **name == *"pay");
    let asked = served.asked.iter().filter(is_theirs).find(|reference| !theirs(reference));
    if let Some(reference) = asked {
        return Some(format!("{reference:?} is asked for"));
    }
    // Lists of names and authorities are not shown; of those only what is asked for tells.
    let marks =
        [world.fingerprints[1].clone(), world.endpoint(other).to_owned(), format!("{other}/all")];
    if let Some(mark) = marks.iter().find(|mark| served.own.has(mark)) {
        return Some(format!("it is served with {mark}"));
    }
    (served.others != *others).then(|| "the other tenant is served otherwise".to_owned())
}

// Every pair of tenants, every field that names something, every spelling.
#[test]
fn of_no_pair_of_tenants_one_is_programmed_with_what_the_other_has() {
    let (naming, mut cases, mut faults) = (naming(), 0, Vec::new());

    for own in TENANTS {
        for other in TENANTS.into_iter().filter(|other| *other != own) {
            let mut world = World::new([own, other]);
            for (example, spots) in naming {
                let plain = of(example, own);
                let before = world.serve(example.document_of(own, &plain));
                for (spot, _) in spots {
                    let Some(text) = text_at(&plain, spot).map(str::to_owned) else { continue };
                    let all = spellings(&text, own, other);
                    let turn = if super::is_whole() { all.len() } else { IN_TURN };
                    for spelt in all.iter().cycle().skip(cases % all.len()).take(turn) {
                        world.grants = cases % 2 == 0;
                        cases += 1;
                        let whole = spot.with(&plain, spelt);
                        if let Some(fault) = fault(&world, example, &whole, &before.others) {
                            faults.push(format!(
                                "{own} {} {} = {spelt:?}: {fault}",
                                example.name, spot.field
                            ));
                        }
                    }
                }
                world.grants = false;
            }
        }
    }

    assert!(cases > 300, "{cases}");
    assert!(
        faults.is_empty(),
        "{} of {cases}: {:#?}",
        faults.len(),
        &faults[..faults.len().min(40)]
    );
}

#[test]
fn what_is_ones_own_is_served_where_the_same_spellings_name_it() {
    let world = World::new(["acme", "globex"]);

    for (example, spots) in naming().iter().filter(|(example, _)| example.expected.is_none()) {
        let served = world.serve(example.document(&example.whole));
        let names = |wanted: &str| {
            spots
                .iter()
                .any(|(spot, kinds)| kinds.contains(&wanted) && !spot.field.contains(".namespace"))
        };
        if names("Service") {
            assert!(
                served.own.has(world.endpoint("acme")),
                "{}: {:#?}",
                example.name,
                served.verdict
            );
        }
        if example.kind == Kind::Tenant
            && spots.iter().any(|(spot, _)| {
                spot.field.contains("ingress") && spot.field.ends_with("secretName")
            })
        {
            assert!(served.own.has(&world.fingerprints[0]), "{}", example.name);
        }
    }
}

#[test]
fn a_secret_of_the_installers_is_named_without_a_namespace() {
    let (schemas, world, mut cases) = (schemas(), World::new(["acme", "globex"]), 0);

    for example in examples().into_iter().filter(|example| example.kind == Kind::HostedApi) {
        for spot in spots_of(&example, &schemas)
            .into_iter()
            .filter(|spot| OWN_NAMES.contains(&&*spot.field))
        {
            let text = text_at(&example.whole, &spot).unwrap();
            for spelt in spellings(text, "acme", "globex")
                .iter()
                .filter(|spelt| spelt.contains(['/', '\\', '\n', '%', ' ']))
            {
                cases += 1;
                let served = world.serve(example.document(&spot.with(&example.whole, spelt)));
                let is_named =
                    served.verdict.findings.iter().any(|finding| spot.is_named_by(finding, spelt));
                assert!(is_named, "{} = {spelt:?}: {:#?}", spot.field, served.verdict.findings);
            }
        }
    }

    assert!(cases > 30, "{cases}");
}
