//! Secrets: a tenant that uses another's is told so, whatever the file is called and whatever else is in it.

use std::fs;
use std::sync::Arc;

use durward_control::compile::retained;
use durward_control::{FileSource, Publisher, State};

use super::{Stage, errors, id, tenant};
use crate::certificates::NOW;

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

/// The line of a file of credentials.
fn line(name: &str, byte: &str) -> String {
    format!("{name}:{}\n", byte.repeat(32))
}

#[test]
fn a_credential_is_one_tenants_whatever_stands_beside_it_in_the_file() {
    let theirs = [
        line("ci", "ab") + &line("own", "01"),
        line("own", "01") + &line("ci", "ab"),
        format!("# mine\n\n  {}", line("ci", "AB").replace("AB", "aB")),
        line("ci", "ab").trim_end().to_owned(),
        line("cd", "cd") + "\n" + &line("ci", "ab").replace('\n', "\r\n"),
    ];
    for text in theirs {
        let stage = Stage::new();
        stage.write("users", &(line("ci", "ab") + &line("cd", "ef")));
        stage.write("v.yaml", &with_clients("v", 2, "users", ""));
        let before = stage.reload();
        assert!(before.verdicts.all_accepted(), "{:#?}", before.verdicts);

        stage.write("mine", &text);
        stage.write("a.yaml", &with_clients("x", 3, "mine", ""));
        let after = stage.reload();

        assert_eq!(before.snapshot.tenants[&id("v")], after.snapshot.tenants[&id("v")]);
        let errors = errors(&after, "a.yaml");
        assert_eq!(errors.len(), 1, "{text:?}: {errors:#?}");
        assert_eq!(&*errors[0].reason, "SecretTaken", "{text:?}");
        let sentence = &errors[0].sentence;
        assert!(sentence.contains("of tenant v (") && !sentence.contains("abab"), "{sentence}");
        let x = after.snapshot.tenants.get(&id("x"));
        assert!(x.is_none_or(|x| x.listeners.is_empty()), "{text:?}");

        // What is in force names the credential, whatever the holder adds, and in the next process as well.
        stage.write("users", &(line("new", "11") + &line("ci", "ab")));
        let edited = stage.reload();
        assert_eq!(&*super::errors(&edited, "a.yaml")[0].reason, "SecretTaken");
        assert!(super::errors(&edited, "v.yaml").is_empty());
    }
}

#[test]
fn one_password_with_two_names_is_two_credentials() {
    let stage = Stage::new();
    stage.write("users", &line("ci", "ab"));
    stage.write("mine", &line("app", "ab"));
    stage.write("account", "acme:secret\n");
    stage.write("my-account", "bank:secret\n");
    stage.write("v.yaml", &with_clients("v", 2, "users", ""));
    stage.write("x.yaml", &with_clients("x", 3, "mine", ""));
    stage.write("y.yaml", &with_parent("y", 4, "account"));
    stage.write("z.yaml", &with_parent("z", 5, "my-account"));

    let compiled = stage.reload();

    assert!(compiled.verdicts.all_accepted(), "{:#?}", compiled.verdicts);
}

#[test]
fn an_account_at_a_parent_is_one_tenants_however_its_file_ends() {
    for text in ["acme:secret", " acme:secret\r\n", "acme:secret\n\n"] {
        let stage = stage();
        stage.write("v.yaml", &with_parent("v", 2, "account"));
        assert!(stage.reload().verdicts.all_accepted());

        stage.write("mine", text);
        stage.write("a.yaml", &with_parent("x", 3, "mine"));

        let compiled = stage.reload();
        let errors = errors(&compiled, "a.yaml");
        assert_eq!(&*errors[0].reason, "SecretTaken", "{text:?}: {errors:#?}");
    }
}

#[test]
fn credentials_of_clients_are_no_other_tenants_account_at_a_parent() {
    let stage = stage();
    stage.write("v.yaml", &with_clients("v", 2, "users", ""));
    assert!(stage.reload().verdicts.all_accepted());

    // The parent would be sent the hash.
    stage.write("mine", &format!(" {}", line("ci", "ab")));
    for file in ["users", "mine"] {
        stage.write("a.yaml", &with_parent("x", 3, file));

        let compiled = stage.reload();
        let errors = errors(&compiled, "a.yaml");
        assert_eq!(&*errors[0].reason, "SecretTaken", "{file}: {errors:#?}");
    }
}

#[test]
fn the_holder_of_a_credential_holds_it_in_the_next_process() {
    let stage = stage();
    stage.write("v.yaml", &with_clients("v", 2, "users", ""));
    let first = stage.reload();
    stage.write("mine", &(line("ci", "ab") + &line("own", "01")));
    let newcomer = with_clients("x", 3, "mine", "")
        .replace("{name: x}", "{name: x, creationTimestamp: \"1999-01-01T00:00:00Z\"}");
    stage.write("a.yaml", &newcomer);

    // The document that says who holds it may be away for a while, as a broken one is.
    let state = State::from_json(&first.state().to_json()).unwrap();
    let source = FileSource::default();
    let next = Publisher::after(retained::restore(&state, &source, NOW));
    let compiled = next.reload(&source.load(&[stage.path().to_owned()]), NOW);

    assert_eq!(&*errors(&compiled, "a.yaml")[0].reason, "SecretTaken");
    assert_eq!(first.snapshot.tenants[&id("v")], compiled.snapshot.tenants[&id("v")]);
}

#[test]
fn proxies_that_share_an_address_may_have_clients_in_common() {
    let of = |name: &str, last: u8, file: &str, shared: bool| {
        let more = format!(", shared: {shared}, allowedSources: [10.{last}.0.0/16]");
        with_clients(name, last, file, &more)
    };
    for (file, shared) in [("users", true), ("more", true), ("users", false), ("more", false)] {
        let stage = stage();
        stage.write("more", &(line("ci", "ab") + &line("own", "01")));
        stage.write("v.yaml", &of("v", 2, "users", true));
        stage.write("x.yaml", &of("x", 3, file, shared));

        let compiled = stage.reload();

        let accepted = compiled.verdicts.all_accepted();
        assert_eq!(accepted, shared, "{file}: {:#?}", compiled.verdicts);
    }
}
