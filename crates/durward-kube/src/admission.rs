//! ValidatingAdmissionPolicies for our own kinds: what the API server can refuse before an object is stored, where rules in a definition cannot see enough.
//!
//! They say no where `compile` would, with the same reason, and know three things that a definition does not: the labels of the object's namespace, those of the namespaces
//! that it names, and the addresses of other tenants. They are a convenience of those who write objects: `compile` decides again, and decides more.

use durward_control::cluster::{ISOLATED, ISOLATED_TENANT_LABEL, ISOLATION_LABEL, TENANT_LABEL};
use serde_json::{Value, json};

const VERSION: &str = "admissionregistration.k8s.io/v1";

/// One rule: the reason, what must hold, and a sentence for whoever wrote the object.
struct Rule<'a>(&'a str, String, &'a str);

/// Kinds of objects that are parameters: a rule is asked once for each of them.
#[derive(Clone, Copy)]
enum Parameters {
    None,
    Namespaces,
    Tenants,
}

/// Returns the policies, each followed by its binding. `gateway` is the gateway's own namespace.
#[must_use]
pub fn policies(gateway: &str) -> Vec<Value> {
    let gateway = quoted(gateway);
    let (mapping, part) = (of_mapping(&gateway), of_part(&gateway));
    [
        policy("durward-portmappings", "portmappings", Parameters::None, &[], &mapping),
        policy("durward-egresspolicies", "egresspolicies", Parameters::None, &[], &part),
        policy("durward-hostedapis", "hostedapis", Parameters::None, &[], &part),
        policy("durward-tenants", "tenants", Parameters::None, &[], &of_tenant()),
        policy(
            "durward-portmapping-namespaces",
            "portmappings",
            Parameters::Namespaces,
            &[("tenant", mapping_tenant(&gateway))],
            &[namespaces(&gateway, MAPPING_NAMES)],
        ),
        policy(
            "durward-tenant-namespaces",
            "tenants",
            Parameters::Namespaces,
            &[("tenant", "object.metadata.name".to_owned())],
            &[namespaces(&gateway, &tenant_names())],
        ),
        policy(
            "durward-portmapping-addresses",
            "portmappings",
            Parameters::Tenants,
            &[
                ("tenant", mapping_tenant(&gateway)),
                ("theirs", theirs()),
                ("before", before("(has(oldObject.spec.addresses) ? oldObject.spec.addresses : [])")),
                ("shared", yes_or_no("has(object.spec.shared) && object.spec.shared")),
            ],
            &[addresses(
                "AddressTaken",
                "has(object.spec.addresses) ? object.spec.addresses.map(a, {'address': string(a), 'shared': variables.shared}) : []",
            )],
        ),
        policy(
            "durward-tenant-addresses",
            "tenants",
            Parameters::Tenants,
            &[
                ("tenant", "object.metadata.name".to_owned()),
                ("theirs", theirs()),
                ("before", before(&format!("{}.map(one, one.address)", used("oldObject.spec")))),
            ],
            &[
                addresses("AddressTaken", &ingress("object.spec")),
                addresses("EgressTaken", &egress("object.spec")),
            ],
        ),
    ]
    .concat()
}

/// Returns the policies as YAML documents.
///
/// # Errors
/// Fails only if a policy has no form in YAML, which a test excludes.
pub fn yaml(gateway: &str) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for object in policies(gateway) {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(text)
}

/// Returns the rules for a mapping.
fn of_mapping(gateway: &str) -> Vec<Rule<'static>> {
    let mut rules = of_part(gateway);
    rules.push(Rule(
        "BadAddress",
        "!has(object.spec.addresses) || object.spec.addresses.all(a, isIP(a))".to_owned(),
        "spec.addresses has an entry that is no IP address",
    ));
    rules
}

/// Returns the rules for the tenant that an object in a namespace names.
fn of_part(gateway: &str) -> Vec<Rule<'static>> {
    let label = label_of("namespaceObject");
    vec![
        Rule(
            "NamespaceWithoutTenant",
            format!(
                "object.metadata.namespace == {gateway} ? has(object.spec.tenant) : ({label}) != ''"
            ),
            "the namespace is no tenant's: label it durward.dev/tenant: NAME, or in the gateway's own namespace say spec.tenant",
        ),
        Rule(
            "TenantMismatch",
            format!(
                "object.metadata.namespace == {gateway} || !has(object.spec.tenant) || object.spec.tenant == ({label})"
            ),
            "spec.tenant is not the tenant of this namespace: remove it",
        ),
    ]
}

/// Returns the rules for objects that a `Tenant` object may name.
fn of_tenant() -> Vec<Rule<'static>> {
    let is_entry =
        |name: &str| format!("({name}.startsWith('secret:') || {name}.startsWith('configMap:'))");
    let field = |holder: &str, name: &str| {
        format!("(!has({holder}.{name}) || {})", is_entry(&format!("{holder}.{name}")))
    };
    let certificate = |holder: &str| {
        let fields = ["file", "certificateFile", "keyFile"].map(|name| field(holder, name));
        fields.join(" && ")
    };
    let one = certificate("i.certificate");
    let several = certificate("c");
    let clients = field("i.clientCertificates", "caFile");
    vec![
        Rule(
            "BadAddress",
            "(!has(object.spec.ingress) || object.spec.ingress.all(i, isIP(i.address))) && (!has(object.spec.egress) || !has(object.spec.egress.addresses) || object.spec.egress.addresses.all(a, isIP(a)))".to_owned(),
            "an address of spec.ingress or spec.egress is no IP address",
        ),
        Rule(
            "FileOutside",
            format!(
                "!has(object.spec.ingress) || object.spec.ingress.all(i, (!has(i.certificate) || ({one})) && (!has(i.certificates) || i.certificates.all(c, {several})) && (!has(i.clientCertificates) || {clients}))"
            ),
            "an object names no files: put it into a Secret or ConfigMap, and write secret:NAME/KEY, configMap:NAME/KEY or secretName",
        ),
    ]
}

/// What a namespace must be that an object names, where `names_it` says that it does.
fn namespaces(gateway: &str, names_it: &str) -> Rule<'static> {
    let label = label_of("params");
    Rule(
        "NamespaceForeign",
        format!(
            "params.metadata.name == {gateway} || ({label}) == variables.tenant || !({names_it})"
        ),
        "it names something in a namespace that is not the tenant's",
    )
}

/// What the addresses of an object must not be: those that another tenant has. `used` is a list of addresses, and whether each may be shared. Addresses that the object
/// had before are left to `compile`, which knows who was first.
fn addresses(reason: &'static str, used: &str) -> Rule<'static> {
    let same = "isIP(one.address) && isIP(other.address) && ip(one.address) == ip(other.address)";
    Rule(
        reason,
        format!(
            "params.metadata.name == variables.tenant || ({used}).all(one, one.address in variables.before || !variables.theirs.exists(other, !(one.shared == 'yes' && other.shared == 'yes') && {same}))"
        ),
        "another tenant has one of the addresses",
    )
}

/// Says whether a mapping names something in the namespace that is the parameter.
const MAPPING_NAMES: &str = "has(object.spec.ports) && object.spec.ports.exists(p, has(p.service) && has(p.service.namespace) && p.service.namespace == params.metadata.name)";

/// Says whether a tenant names something in the namespace that is the parameter.
fn tenant_names() -> String {
    let secret = |holder: &str| {
        format!(
            "(has({holder}.secretName) && {holder}.secretName.startsWith(params.metadata.name + '/'))"
        )
    };
    let entry = |holder: &str, field: &str| {
        let name = format!("{holder}.{field}");
        // An entry of another namespace has three parts.
        format!(
            "(has({name}) && {name}.split('/').size() == 3 && {name}.split('/')[0].endsWith(':' + params.metadata.name))"
        )
    };
    let certificate = |holder: &str| {
        let files = ["file", "certificateFile", "keyFile"].map(|field| entry(holder, field));
        format!("{} || {}", secret(holder), files.join(" || "))
    };
    let (one, several) = (certificate("i.certificate"), certificate("c"));
    let clients = entry("i.clientCertificates", "caFile");
    let (up, service) = ("object.spec.upstreams", "object.spec.upstreams[u].service");
    [
        "(has(object.spec.namespace) && object.spec.namespace == params.metadata.name)".to_owned(),
        format!(
            "(has(object.spec.ingress) && object.spec.ingress.exists(i, (has(i.certificate) && ({one})) || (has(i.certificates) && i.certificates.exists(c, {several})) || (has(i.clientCertificates) && {clients})))"
        ),
        format!(
            "(has({up}) && {up}.exists(u, has({service}) && has({service}.namespace) && {service}.namespace == params.metadata.name))"
        ),
    ]
    .join(" || ")
}

/// Returns the tenant that a mapping belongs to.
fn mapping_tenant(gateway: &str) -> String {
    let label = label_of("namespaceObject");
    let written = "has(object.spec.tenant) ? object.spec.tenant : ''";
    format!("object.metadata.namespace == {gateway} ? ({written}) : ({label})")
}

/// Returns the tenant that the labels of a namespace name; an empty text without one.
fn label_of(namespace: &str) -> String {
    let labels = format!("{namespace}.metadata.labels");
    let [label, tenant, isolation, isolated] =
        [TENANT_LABEL, ISOLATED_TENANT_LABEL, ISOLATION_LABEL, ISOLATED].map(quoted);
    let is_isolated = format!(
        "has({labels}) && {isolation} in {labels} && {labels}[{isolation}] == {isolated} && {tenant} in {labels}"
    );
    format!(
        "has({labels}) && {label} in {labels} ? {labels}[{label}] : (({is_isolated}) ? {labels}[{tenant}] : '')"
    )
}

/// Returns the addresses of the tenant that is the parameter.
fn theirs() -> String {
    used("params.spec")
}

/// Returns the addresses of a tenant, and whether each may be shared.
fn used(spec: &str) -> String {
    format!("({} + {})", ingress(spec), egress(spec))
}

/// Returns the addresses that clients of a tenant connect to.
fn ingress(spec: &str) -> String {
    let shared = yes_or_no("has(i.shared) && i.shared");
    format!(
        "(has({spec}.ingress) ? {spec}.ingress.map(i, {{'address': string(i.address), 'shared': {shared}}}) : [])"
    )
}

/// Returns the addresses that connections of a tenant leave from.
fn egress(spec: &str) -> String {
    let egress = format!("{spec}.egress");
    let shared = yes_or_no(&format!("has({egress}.shared) && {egress}.shared"));
    format!(
        "(has({egress}) && has({egress}.addresses) ? {egress}.addresses.map(a, {{'address': string(a), 'shared': {shared}}}) : [])"
    )
}

/// Returns a condition as a text: the values of a map have one type, and addresses are texts.
fn yes_or_no(condition: &str) -> String {
    format!("({condition} ? 'yes' : 'no')")
}

/// Returns the addresses that an object had before it was changed.
fn before(addresses: &str) -> String {
    format!("request.operation == 'UPDATE' ? {addresses} : []")
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Returns a policy for objects of a kind, and its binding.
fn policy(
    name: &str,
    resource: &str,
    parameters: Parameters,
    variables: &[(&str, String)],
    rules: &[Rule<'_>],
) -> Vec<Value> {
    let variables: Vec<Value> = variables
        .iter()
        .map(|(name, expression)| json!({ "name": name, "expression": expression }))
        .collect();
    let validations: Vec<Value> = rules
        .iter()
        .map(|Rule(reason, expression, message)| {
            json!({ "expression": expression, "message": format!("{reason}: {message}") })
        })
        .collect();
    let labels = json!({ "app.kubernetes.io/part-of": "durward" });
    let mut policy = json!({
        "apiVersion": VERSION,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": ["durward.dev"],
                "apiVersions": ["v1alpha1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": [resource],
            }] },
            "variables": variables,
            "validations": validations,
        },
    });
    let mut binding = json!({
        "apiVersion": VERSION,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name, "labels": labels },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    });
    let kind = match parameters {
        Parameters::None => return vec![policy, binding],
        Parameters::Namespaces => json!({ "apiVersion": "v1", "kind": "Namespace" }),
        Parameters::Tenants => json!({ "apiVersion": "durward.dev/v1alpha1", "kind": "Tenant" }),
    };
    policy["spec"]["paramKind"] = kind;
    // All of them: an empty selector selects everything.
    binding["spec"]["paramRef"] = json!({ "selector": {}, "parameterNotFoundAction": "Allow" });
    vec![policy, binding]
}
