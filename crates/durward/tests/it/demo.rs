//! The demo: what a newcomer sees first must work, and leave nothing behind.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use durward_testkit::process::{Child, TempDir, eventually_blocking};

use crate::support::{DEADLINE, durward, get, output, stdout};

/// Demos look for free ports when they start; two at once would look at the same ones.
static ALONE: Mutex<()> = Mutex::new(());

// S1.1 S1.3 S1.49 S2.4 S4.1+
#[test]
fn one_round_shows_each_tenants_own_address_to_the_partner() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = TempDir::new();

    let demo = durward(&["demo", "--once"]).env("TMPDIR", place.path()).output().unwrap();

    let text = stdout(&demo);
    assert!(demo.status.success(), "{text}");
    assert!(text.contains("the bank saw 127.0.0.2, client certificate CN=acme"), "{text}");
    assert!(text.contains("the bank saw 127.0.0.3"), "{text}");
    assert!(text.contains("√ proxy     -x http://127.0.0.2:"), "{text}");
    assert!(text.contains("√ acme      https://acme.demo/  200, at 127.0.0.4"), "{text}");
    assert!(text.contains("√ initech   https://initech.demo/  200, at 127.0.0.4"), "{text}");
    for tenant in ["acme", "initech"] {
        let line = format!(
            "√ {tenant:<9} https://{tenant}-api.demo/  its API server saw the client certificate CN=admin, at 127.0.0.6"
        );
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("stranger") && text.contains("refused"), "{text}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
}

// S1.13 S1.60 S1.61
#[test]
fn the_demo_serves_until_told_and_check_finds_what_is_broken() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // The first choice of ports is taken, so the next free ones are used and said.
    let _taken = (TcpListener::bind("127.0.0.2:8443"), TcpListener::bind("127.0.0.1:9440"));
    let place = TempDir::new();
    let mut command = durward(&["demo"]);
    command.env("TMPDIR", place.path());
    let mut demo = Child::spawn(command);
    demo.wait_for_line_blocking("the bank saw 127.0.0.2", DEADLINE);
    let text = demo.output();
    let state: PathBuf =
        text.split(['(', ' ']).find(|word| word.contains("durward-demo-")).unwrap().into();
    let admin = text
        .lines()
        .find_map(|line| line.strip_prefix("admin          http://")?.split('/').next())
        .unwrap();

    let config = state.to_str().unwrap();
    let check = output(&["check", "-c", config, "--admin", admin]);
    let shell = format!(". {config}/env && durward validate");
    let sourced = Command::new("sh").args(["-c", &shell]).output().unwrap();

    assert!(text.contains("is taken"), "{text}");
    assert_eq!(check.status.code(), Some(1));
    let found = stdout(&check);
    assert!(found.contains("‼ globex certificate certs/globex at 127.0.0.3"), "{found}");
    assert!(found.contains("ends in 6 days"), "{found}");
    assert!(found.contains("× globex upstream reports at 127.0.0.1:"), "{found}");
    assert_eq!(found.matches("\n× ").count(), 1, "{found}");
    assert!(!found.contains("does not name 127.0.0.4"), "names tell these apart: {found}");
    assert!(found.contains("is served by the durward that runs here"), "{found}");
    assert_eq!(sourced.status.code(), Some(0), "{}", stdout(&sourced));

    // kubectl as the screen suggests it, where it is installed.
    let kubeconfig = state.join("initech.kubeconfig");
    let kubectl = Command::new("kubectl")
        .args(["auth", "whoami", "-o", "json", "--kubeconfig"])
        .arg(kubeconfig)
        .output();
    match kubectl {
        Err(_) => eprintln!("SKIPPED kubectl in the demo (kubectl is missing)"),
        Ok(told) => {
            let review: serde_json::Value =
                serde_json::from_str(&stdout(&told)).unwrap_or_else(|_| panic!("{told:?}"));
            assert_eq!(review["status"]["userInfo"]["username"], "admin");
        }
    }

    // The files are live, as the screen says.
    std::fs::write(state.join("initech.yaml"), "broken on purpose\n").unwrap();
    let admin = admin.parse().unwrap();
    let readiness = || get(admin, "/readyz?verbose").map(|(_, text)| text).unwrap_or_default();
    let noticed = eventually_blocking(DEADLINE, || !readiness().contains("5 of 5 accepted"));
    assert!(noticed, "{}", readiness());

    demo.terminate();
    assert!(demo.wait_blocking(Duration::from_secs(20)).success());
    assert!(!state.exists(), "the state is removed");
}

#[test]
fn the_configuration_it_prints_is_the_real_one() {
    let printed = stdout(&output(&["demo", "--print-config"]));

    assert!(
        printed.contains("kind: Tenant")
            && printed.contains("name: acme")
            && printed.contains("name: globex")
            && printed.contains("name: initech")
            && printed.matches("kind: HostedApi").count() == 2
    );
    assert!(!printed.contains('@'));
}
