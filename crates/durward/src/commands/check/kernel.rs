//! Checks for anything that would keep the kernel from carrying mappings: capabilities, interfaces, gateways, firewalls, parameters.

use durward_model::mapping::NatModel;
use durward_nat::{Options, Survey, survey};

use crate::app::sentence;
use crate::commands::check::Category;

/// Checks the kernel plane; empty if it is not used.
pub(crate) fn check(model: &NatModel, options: &Options) -> Category {
    let mut category = Category::new("kernel");
    if model.mappings.is_empty() && model.egress.is_empty() && options.external.is_empty() {
        return category;
    }
    if options.external.is_empty() {
        let transparent = model.egress.iter().any(|rule| rule.transparent.is_some());
        let sentence = if transparent {
            "a tenant has egress.transparent, but no interface is external: nothing is caught"
        } else {
            "there are mappings or egress.sources, but no interface is external"
        };
        category.error(sentence, "--nat-external PATTERN, as for durward run");
        return category;
    }
    match survey(options, model) {
        Ok(survey) => judge(&mut category, &survey, options),
        Err(error) => category.warn(
            format!("the kernel's state cannot be read: {}", sentence(&error)),
            "run it with CAP_NET_ADMIN, as durward run has it",
        ),
    }
    category
}

/// Checks the prerequisites of transparent egress.
fn hand_over(category: &mut Category, survey: &Survey) {
    match survey.hand_over {
        Some(true) => category.ok("connections can be handed to the forward proxy"),
        Some(false) => category.error(
            "the kernel cannot hand connections to the forward proxy, so tenants with egress.transparent reach nothing",
            "modprobe nft_tproxy nft_fib_inet, or a kernel that has them",
        ),
        None => {}
    }
    for obstacle in &survey.obstacles {
        category.warn(
            obstacle.clone(),
            "where pods are on that bridge: sysctl -w net.bridge.bridge-nf-call-iptables=0 (and ip6tables), if nothing else needs it",
        );
    }
}

fn judge(category: &mut Category, survey: &Survey, options: &Options) {
    let names: Vec<&str> = survey.interfaces.external.keys().map(String::as_str).collect();
    if names.is_empty() {
        category.error(
            format!("no interface's whole name matches {:?}", options.external),
            "ip -brief link shows the names",
        );
    } else {
        category.ok(format!("external: {}", names.join(", ")));
    }
    for name in &survey.without_gateway {
        category.warn(
            format!("{name} has no gateway, so it reaches its own networks only"),
            "--nat-gateway, or a default route by it",
        );
    }
    for (name, gateway) in &survey.silent_gateways {
        category.error(
            format!("gateway {gateway} on {name} does not answer"),
            "--nat-gateway counts from the network's first address (1) or last (-1), or names it",
        );
    }
    for chain in &survey.dropping {
        category.warn(
            format!("chain {chain} drops forwarded packets that none of its rules accepts"),
            "what Durward lets through must pass there too: accept it, or change the policy",
        );
    }
    if survey.dropping.is_empty() {
        category.ok("no other table drops forwarded packets by default");
    }
    hand_over(category, survey);
    for parameter in &survey.parameters {
        if options.set_sysctls {
            category.ok(format!("{parameter}; durward run sets it"));
        } else {
            category.error(parameter.clone(), "set it, or leave out --nat-keep-sysctls");
        }
    }
    if let Some(interfaces) = &survey.no_way_back {
        category.warn(
            format!("rp_filter on {interfaces} drops clients that no route leads to, and there is no default route"),
            "a default route, or routes to the clients, in the main table; or rp_filter 0 there and for `all`",
        );
    }
    for bridge in &survey.believing {
        category.warn(
            format!("{bridge} accepts any source address, because rp_filter is not strict there: a pod can send as another tenant's pod"),
            "sysctl -w net.ipv4.conf.BRIDGE.rp_filter=1, and a network plugin that checks each pod's address at its port",
        );
    }
    for address in &survey.missing {
        category.warn(
            format!("{address} is on no external interface"),
            "it may be another host's; --nat-address INTERFACE=IP/LEN puts it on",
        );
    }
}
