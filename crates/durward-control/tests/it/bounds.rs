//! Lists of documents have a most, and one entry more is an error that names the list.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use durward_control::spec::document;
use durward_control::{Document, Store, compile};
use durward_model::Kind;
use durward_model::verdict::Finding;

use crate::certificates::NOW;

/// `count` entries of a list, each made from its number.
fn entries(count: usize, entry: impl Fn(usize) -> String) -> String {
    let mut text = String::from("[");
    for at in 0..count {
        let _ = write!(text, "{}{}", if at == 0 { "" } else { ", " }, entry(at));
    }
    text + "]"
}

fn map(count: usize) -> String {
    entries(count, |at| format!("x-{at}: v")).replace('[', "{").replace(']', "}")
}

fn address(at: usize) -> String {
    format!("10.{}.{}.{}", at >> 16, (at >> 8) & 0xff, at & 0xff)
}

fn host(at: usize) -> String {
    format!("h{at}.example")
}

fn tenant(spec: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: t}}\nspec:\n  {spec}\n"
    )
}

fn route(more: &str) -> String {
    tenant(&format!(
        "ingress: [{{address: 198.51.100.1, protocol: HTTP, routes: [{{pathPrefix: /, upstream: u, {more}}}]}}]\n  upstreams: {{u: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.1]}}"
    ))
}

fn entry(more: &str) -> String {
    tenant(&format!(
        "ingress: [{{address: 198.51.100.1, protocol: HTTP, upstream: u, {more}}}]\n  upstreams: {{u: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.1]}}"
    ))
}

fn egress(more: &str) -> String {
    tenant(&format!(
        "egress: {{addresses: [203.0.113.1], proxy: [{{address: 198.51.100.1, allowedSources: [10.0.0.0/8]}}], {more}}}"
    ))
}

fn proxy(more: &str) -> String {
    tenant(&format!(
        "egress: {{addresses: [203.0.113.1], allow: [{{host: a.example}}], proxy: [{{address: 198.51.100.1, {more}}}]}}"
    ))
}

fn mapping(spec: &str) -> String {
    let head = "apiVersion: durward.dev/v1alpha1\nkind: PortMapping\nmetadata: {name: m}\nspec: ";
    format!("{head}{{tenant: t, {spec}}}\n")
}

fn findings(text: &str) -> Vec<Finding> {
    let file = Arc::from("t.yaml");
    let kind = if text.contains("kind: PortMapping") { Kind::PortMapping } else { Kind::Tenant };
    let parse = |kind: Kind, text: &str, line: u32| {
        let source = document::source(kind, &file, Arc::from(text), line, vec![PathBuf::from(".")]);
        let content = document::content(&source);
        Document::of_file(line as usize, source, content)
    };
    let mut documents = vec![parse(kind, text, 1)];
    if kind == Kind::PortMapping {
        documents.push(parse(Kind::Tenant, &tenant("{}").replace("\n  {}", " {}"), 1_000_000));
    }
    let compiled = compile(&documents.into_iter().collect::<Store>(), None, NOW);
    compiled.verdicts.findings().map(|(_, finding)| finding.clone()).collect()
}

/// A list: its field, its most, and a document in which it has so many entries.
struct Case {
    field: &'static str,
    most: usize,
    document: fn(usize) -> String,
}

const CASES: &[Case] = &[
    Case {
        field: "spec.ingress",
        most: 1_000,
        document: |count| {
            let one = |at| {
                format!("{{address: {}, protocol: HTTP, redirectToHttps: true}}", address(at + 1))
            };
            tenant(&format!("ingress: {}", entries(count, one)))
        },
    },
    Case {
        field: "spec.ingress[0].routes[0].hosts",
        most: 1_000,
        document: |count| route(&format!("hosts: {}", entries(count, host))),
    },
    Case {
        field: "spec.ingress",
        most: 50_000,
        document: |count| {
            let routes = count.div_ceil(1_000);
            let hosts = |at: usize| {
                entries((count - at * 1_000).min(1_000), |host| format!("h{at}-{host}.example"))
            };
            let routes = entries(routes, |at| {
                format!("{{pathPrefix: /, upstream: u, hosts: {}}}", hosts(at))
            });
            tenant(&format!(
                "ingress: [{{address: 198.51.100.1, protocol: HTTP, routes: {routes}}}]\n  upstreams: {{u: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.1]}}"
            ))
        },
    },
    Case {
        field: "spec.ingress[0]",
        most: 1_000,
        document: |count| {
            let one = |at| {
                format!("{{pathPrefix: /, upstream: u, headers: [{{name: x, value: v{at}}}]}}")
            };
            tenant(&format!(
                "ingress: [{{address: 198.51.100.1, protocol: HTTP, routes: {}}}]\n  upstreams: {{u: {{endpoints: [10.0.0.1]}}}}\n  egress: {{addresses: [203.0.113.1]}}",
                entries(count, one)
            ))
        },
    },
    Case {
        field: "spec.ingress[0].routes[0].methods",
        most: 100,
        document: |count| route(&format!("methods: {}", entries(count, |at| format!("M{at}")))),
    },
    Case {
        field: "spec.ingress[0].routes[0].headers",
        most: 100,
        document: |count| {
            route(&format!(
                "headers: {}",
                entries(count, |at| format!("{{name: x{at}, value: v}}"))
            ))
        },
    },
    Case {
        field: "spec.ingress[0].routes[0].sources",
        most: 50_000,
        document: |count| route(&format!("sources: {}", entries(count, address))),
    },
    Case {
        field: "spec.ingress[0].routes[0].responseHeaders.set",
        most: 100,
        document: |count| route(&format!("responseHeaders: {{set: {}}}", map(count))),
    },
    Case {
        field: "spec.ingress[0].routes[0].requestHeaders.remove",
        most: 100,
        document: |count| {
            route(&format!(
                "requestHeaders: {{remove: {}}}",
                entries(count, |at| format!("x-{at}"))
            ))
        },
    },
    Case {
        field: "spec.ingress[0].allowedSources",
        most: 50_000,
        document: |count| entry(&format!("allowedSources: {}", entries(count, address))),
    },
    Case {
        field: "spec.ingress[0].listen.trustedProxies",
        most: 50_000,
        document: |count| {
            entry(&format!(
                "listen: {{destination: ProxyProtocol, trustedProxies: {}}}",
                entries(count, address)
            ))
        },
    },
    Case {
        field: "spec.upstreams",
        most: 20_000,
        document: |count| {
            let endpoints = entries(count, |at| format!("{}:80", address(at)));
            tenant(&format!(
                "ingress: [{{address: 198.51.100.1, protocol: HTTP, upstream: u}}]\n  upstreams: {{u: {{endpoints: {endpoints}}}}}\n  egress: {{addresses: [203.0.113.1]}}"
            ))
        },
    },
    Case {
        field: "spec.egress.addresses",
        most: 1_000,
        document: |count| tenant(&format!("egress: {{addresses: {}}}", entries(count, address))),
    },
    Case {
        field: "spec.egress.sources",
        most: 10_000,
        document: |count| egress(&format!("sources: {}", entries(count, address))),
    },
    Case {
        field: "spec.egress.resolvers",
        most: 100,
        document: |count| egress(&format!("resolvers: {}", entries(count, address))),
    },
    Case {
        field: "spec.egress.allow",
        most: 10_000,
        document: |count| {
            egress(&format!("allow: {}", entries(count, |at| format!("{{host: h{at}.example}}"))))
        },
    },
    Case {
        field: "spec.egress.deny[0].hosts",
        most: 10_000,
        document: |count| egress(&format!("deny: [{{hosts: {}}}]", entries(count, host))),
    },
    Case {
        field: "spec.egress.deny",
        most: 50_000,
        document: |count| {
            let rules = count.div_ceil(10_000);
            let hosts = |at: usize| {
                entries((count - at * 10_000).min(10_000), |host| format!("h{at}-{host}.example"))
            };
            egress(&format!("deny: {}", entries(rules, |at| format!("{{hosts: {}}}", hosts(at)))))
        },
    },
    Case {
        field: "spec.egress.allow[0].cidrs",
        most: 10_000,
        document: |count| egress(&format!("allow: [{{cidrs: {}}}]", entries(count, address))),
    },
    Case {
        field: "spec.egress.allow[0].ports",
        most: 100,
        document: |count| {
            egress(&format!(
                "allow: [{{host: a.example, ports: {}}}]",
                entries(count, |at| format!("{}", at + 1))
            ))
        },
    },
    Case {
        field: "spec.egress.parents",
        most: 1_000,
        document: |count| {
            egress(&format!(
                "parents: {}",
                entries(count, |at| format!("{{address: 'p{at}.example:3128'}}"))
            ))
        },
    },
    Case {
        field: "spec.egress.proxy[0].allowedSources",
        most: 50_000,
        document: |count| proxy(&format!("allowedSources: {}", entries(count, address))),
    },
    Case {
        field: "spec.addresses",
        most: 1_000,
        document: |count| {
            mapping(&format!(
                "addresses: {}, endpoints: [10.9.0.1], ports: [{{port: 80}}]",
                entries(count, |at| address(at + 65_536))
            ))
        },
    },
    Case {
        field: "spec.ports",
        most: 10_000,
        document: |count| {
            mapping(&format!(
                "addresses: [198.51.100.1], endpoints: [10.9.0.1], ports: {}",
                entries(count, |at| format!("{{port: {}}}", at + 1))
            ))
        },
    },
    Case {
        field: "spec.ports",
        most: 1_000,
        document: |count| {
            mapping(&format!(
                "addresses: {}, endpoints: [10.9.0.1], ports: {}",
                entries(100, |at| address(at + 65_536)),
                entries(count, |at| format!("{{port: {}}}", at + 1))
            ))
        },
    },
    Case {
        field: "spec.ports",
        most: 100,
        document: |count| {
            mapping(&format!(
                "addresses: [198.51.100.1], endpoints: {}, ports: {}",
                entries(1_000, |at| format!("10.9.{}.{}", at >> 8, at & 0xff)),
                entries(count, |at| format!("{{port: {}}}", at + 1))
            ))
        },
    },
    Case {
        field: "spec.allowedSources",
        most: 50_000,
        document: |count| {
            mapping(&format!(
                "addresses: [198.51.100.1], endpoints: [10.9.0.1], ports: [{{port: 80}}], allowedSources: {}",
                entries(count, address)
            ))
        },
    },
];

#[test]
fn a_list_has_a_most_and_one_entry_more_is_an_error_that_names_it() {
    for Case { field, most, document } in CASES {
        let fits = findings(&document(*most));
        let long = findings(&document(most + 1));

        let too_many = |found: &[Finding]| {
            found.iter().filter(|one| &*one.reason == "TooMany").cloned().collect::<Vec<_>>()
        };
        assert_eq!(too_many(&fits), [], "{field} {most}");
        let faults: Vec<_> =
            fits.iter().filter(|one| !["UpstreamUnused"].contains(&&*one.reason)).collect();
        assert!(faults.len() < 3, "{field} {most}: {faults:#?}");
        let errors = too_many(&long);
        assert_eq!(errors.len(), 1, "{field} {most}: {long:#?}");
        assert_eq!(&*errors[0].field, *field);
        let sentence = &errors[0].sentence;
        assert!(sentence.contains(": "), "{}", errors[0]);
    }
}
