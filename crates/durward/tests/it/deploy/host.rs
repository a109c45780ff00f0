//! The image and the systemd units.
//!
//! Deliberately absent: building the image; no registry is at hand where the tests run.

use std::process::Command;

use crate::{root, text};

// S1.15
#[test]
fn the_image_is_static_non_root_and_pinned() {
    let dockerfile = text("deploy/Dockerfile");
    let joined = dockerfile.replace("\\\n", " ");
    let instructions: Vec<(&str, &str)> = joined
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let all = |name: &'static str| {
        instructions.iter().filter(move |(word, _)| *word == name).map(|(_, rest)| rest.trim())
    };

    let images: Vec<&str> = all("FROM").map(|from| from.split(' ').next().unwrap()).collect();

    assert_eq!(images.len(), 2, "one image builds, the other runs");
    assert!(images.iter().all(|image| image.contains(':') && !image.ends_with(":latest")));
    assert!(images[1].contains("distroless/static") && images[1].ends_with(":nonroot"));
    assert_eq!(all("USER").collect::<Vec<_>>(), ["65532:65532"]);
    assert!(all("ENTRYPOINT").all(|command| command.starts_with('[')), "no shell is in the image");
    assert!(all("CMD").all(|command| command.starts_with('[')), "no shell is in the image");
    assert_eq!(all("ADD").count(), 0, "COPY says what it does");
    assert!(all("ENV").any(|env| env.contains("+crt-static")));
    assert!(all("RUN").all(|run| !run.contains("cargo build") || run.contains("--locked")));
}

// S1.15
#[test]
fn the_unit_is_confined() {
    let unit = text("deploy/systemd/durward.service");
    let has = |line: &str| unit.lines().any(|candidate| candidate == line);

    for line in [
        "Type=notify-reload",
        "User=durward",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "WatchdogSec=30s",
        "LogsDirectory=durward",
        "KillMode=mixed",
        "LimitCORE=0",
    ] {
        assert!(has(line), "{line}");
    }
}

// S5.14 S5.15 S5.19+
#[test]
fn the_script_installs_everything_below_a_root_and_only_says_so_when_dry() {
    let script = root().join("deploy/systemd/install.sh");
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(&script).args(arguments).arg(env!("CARGO_BIN_EXE_durward"));
        command.output().unwrap()
    };
    let below = place.path().to_str().unwrap();

    let dry = run(&["--nat", "--root", below, "--dry-run"]);
    let untouched = std::fs::read_dir(place.path()).unwrap().count() == 0;
    let done = run(&["--nat", "--root", below]);
    let whole = run(&["--dry-run"]);
    let image = "install.sh --nat --root / BINARY";

    assert!(dry.status.success() && untouched);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for file in [
        "usr/local/bin/durward",
        "etc/systemd/system/durward.service",
        "etc/systemd/system/durward.socket",
        "etc/systemd/system/durward.service.d/nat.conf",
        "usr/lib/sysusers.d/durward.conf",
        "etc/durward",
    ] {
        assert!(place.path().join(file).exists(), "{file}");
    }
    let unit = std::fs::read_to_string(place.path().join("etc/systemd/system/durward.service"));
    assert!(unit.unwrap().contains("ExecStart=/usr/local/bin/durward run"));
    let whole = String::from_utf8(whole.stdout).unwrap();
    // Started only where there are documents, and a host of a developer may have some.
    let begun = whole.contains("systemctl enable --now durward.service");
    assert!(begun || whole.contains("is empty; put documents there"), "{whole}");
    assert!(whole.contains("chgrp durward /etc/durward"), "{whole}");
    assert!(!run(&["--naught"]).status.success());
    let started = String::from_utf8(run(&["--nat", "--root", "/", "--dry-run"]).stdout).unwrap();
    assert!(text("docs/guide/operations.md").contains(image) && !started.contains("systemctl"));
}

// S5.18
#[test]
fn the_life_of_the_service_is_documented() {
    let page = text("docs/guide/operations.md");

    for command in [
        "systemctl enable --now durward",
        "systemctl restart durward",
        "systemctl reload durward",
        "systemctl status durward",
        "journalctl -u durward",
    ] {
        assert!(page.contains(command), "{command}");
    }
}

// S5.19
#[test]
fn the_drop_in_for_the_kernel_plane_gives_what_it_needs_and_names_real_variables() {
    let drop_in = text("deploy/systemd/nat.conf");
    let help = Command::new(env!("CARGO_BIN_EXE_durward")).args(["run", "--help"]).output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let mut variables = 0;

    for line in drop_in.lines() {
        if let Some(name) = line.strip_prefix("Environment=").and_then(|it| it.split('=').next()) {
            assert!(help.contains(name), "durward run does not read {name}");
            variables += 1;
        }
    }

    assert!(variables >= 2);
    let wanted = "CAP_NET_BIND_SERVICE CAP_NET_ADMIN CAP_NET_RAW";
    for set in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert!(drop_in.contains(&format!("\n{set}={wanted}\n")), "{set}");
    }
    assert!(drop_in.contains("AF_PACKET"), "addresses are announced by raw frames");
}

#[test]
fn systemd_understands_the_units() {
    let folder = root().join("deploy/systemd");
    let verify = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "durward.service", "durward.socket"])
        .current_dir(&folder)
        .output();
    let Ok(verify) = verify else {
        durward_testkit::netns::skip("a check of the systemd unit", "no systemd-analyze");
        return;
    };

    let said = String::from_utf8_lossy(&verify.stderr).into_owned();

    // Older systemd does not know the type (durward.service.d/ has the remedy); the binary is not installed here.
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("durward"))
        .filter(|line| !line.contains("notify-reload") && !line.contains("is not executable"))
        .collect();
    assert_eq!(complaints, Vec::<&str>::new());
}

#[test]
fn the_unit_is_little_exposed() {
    let unit = root().join("deploy/systemd/durward.service");
    let security = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20", "--no-pager"])
        .arg(unit)
        .output();
    let Ok(security) = security else {
        durward_testkit::netns::skip("a check of the systemd unit", "no systemd-analyze");
        return;
    };

    let table = String::from_utf8_lossy(&security.stdout);

    assert!(security.status.success(), "exposure above 2.0:\n{table}");
    assert!(table.contains("exposure level"), "{table}");
}
