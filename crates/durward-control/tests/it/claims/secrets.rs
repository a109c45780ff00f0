//! Files of secrets: a tenant that names another's is told so, whatever the file is called.

use std::fs;
use std::sync::Arc;

use super::{Stage, errors, id, tenant};

fn with_clients(name: &str, last: u8, file: &str, more: &str) -> String {
    tenant(
        name,
        &format!(
            "{{egress: {{addresses: [203.0.113.{last}], allow: [{{host: bank.example}}], proxy: [{{address: 198.51.100.{last}, credentials: {{file: {file}}}{more}}}]}}}}"
        ),
    )
}

fn with_parent(name: &str, last: u8, file: &str) -> String {
    tenant(
        name,
        &format!(
            "{{egress: {{addresses: [203.0.113.{last}], allow: [{{host: bank.example}}], parents: [{{address: 'proxy.example:3128', hosts: [bank.example], credentialFile: {file}}}], proxy: [{{address: 198.51.100.{last}, allowedSources: [10.{last}.0.0/16]}}]}}}}"
        ),
    )
}

fn stage() -> Stage {
    let stage = Stage::new();
    stage.write("users", &format!("ci:{}\n", "ab".repeat(32)));
    stage.write("account", "acme:secret\n");
    for name in ["users", "account"] {
        fs::copy(stage.path().join(name), stage.path().join(format!("{name}-copy"))).unwrap();
    }
    stage
}

#[test]
fn a_file_of_secrets_is_one_tenants_whatever_it_is_called() {
    let clients = |name: &str, last: u8, file: &str| with_clients(name, last, file, "");
    type Form<'f> = (&'f str, &'f dyn Fn(&str, u8, &str) -> String);
    let forms: [Form<'_>; 2] = [("users", &clients), ("account", &with_parent)];
    for (file, form) in forms {
        for theirs in [file.to_owned(), format!("{file}-copy")] {
            let stage = stage();
            stage.write("v.yaml", &form("v", 2, file));
            let before = stage.reload();
            assert!(before.verdicts.all_accepted(), "{file}: {:#?}", before.verdicts);

            stage.write("a.yaml", &form("x", 3, &theirs));
            let after = stage.reload();

            let v = |of: &durward_control::Compiled| Arc::clone(&of.snapshot.tenants[&id("v")]);
            assert!(Arc::ptr_eq(&v(&before), &v(&after)));
            let errors = errors(&after, "a.yaml");
            assert_eq!(&*errors[0].reason, "SecretTaken", "{theirs}: {errors:#?}");
            assert!(errors[0].sentence.contains("of tenant v ("), "{}", errors[0]);
            let x = after.snapshot.tenants.get(&id("x"));
            assert!(x.is_none_or(|x| x.listeners.is_empty()), "{theirs}");

            // An edit that is compiled alone asks, too.
            let own = format!("{file}-own");
            let text = fs::read_to_string(stage.path().join(file)).unwrap();
            stage.write(&own, &text.replace("ci:", "cd:").replace("acme:", "bank:"));
            stage.write("a.yaml", &form("x", 3, &own));
            assert!(stage.reload().verdicts.all_accepted());
            stage.write("a.yaml", &form("x", 3, &theirs));
            let edited = stage.reload();
            assert_eq!(&*super::errors(&edited, "a.yaml")[0].reason, "SecretTaken");
        }
    }
}

#[test]
fn proxies_that_share_an_address_may_have_one_file_of_clients() {
    let stage = stage();
    let of = |name: &str, last: u8| {
        let more = format!(", shared: true, allowedSources: [10.{last}.0.0/16]");
        with_clients(name, last, "users", &more)
    };
    stage.write("v.yaml", &of("v", 2));
    stage.write("x.yaml", &of("x", 3));

    let compiled = stage.reload();

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
}
