//! Devices, addresses and routes of the calling thread's network namespace, by the `ip` program.
//! It is only for setting a test up; what Durward itself does to the kernel, it does without such programs.

use std::process::Command;

use super::{Namespace, is_inside};

/// Runs `ip` with these arguments, separated by spaces, and returns its output.
///
/// # Panics
/// When it fails, or outside of `in_namespace`, where it would change the host.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    assert!(is_inside(), "`ip {arguments}` would change the host");
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run ip: {error}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Gives a device an address, usable at once (no duplicate address detection).
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn add_address(device: &str, cidr: &str) {
    let without_detection = if cidr.contains(':') { " nodad" } else { "" };
    ip(&format!("address add {cidr} dev {device}{without_detection}"));
}

/// Brings a device up.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn link_up(device: &str) {
    ip(&format!("link set {device} up"));
}

/// Routes a prefix, or `default`, over a gateway address or, as `dev d0`, a device.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn add_route(to: &str, via: &str) {
    if via.starts_with("dev ") {
        ip(&format!("route add {to} {via}"));
    } else {
        ip(&format!("route add {to} via {via}"));
    }
}

/// Makes a pair of joined devices, both up: `here` in this namespace, `there` in the other.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn veth(here: &str, there: &str, other: &Namespace) {
    ip(&format!("link add {here} type veth peer name {there} netns {}", other.path()));
    link_up(here);
    other.link_up(there);
}

/// Sets a kernel parameter of this namespace, for example `net.ipv4.ip_forward`.
///
/// # Panics
/// When the kernel refuses.
#[track_caller]
pub fn sysctl(name: &str, value: &str) {
    assert!(is_inside(), "sysctl {name} would change the host");
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value)
        .unwrap_or_else(|error| panic!("cannot write {value} to {path}: {error}"));
}
