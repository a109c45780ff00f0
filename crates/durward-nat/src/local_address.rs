//! Addresses that are this host's alone, on a dummy device: a service that listens on one is reached from the host and its pods, and never leaves it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rustix::io::Errno;
use thiserror::Error;

use crate::options::AssignedAddress;
use crate::rtnetlink::Rtnetlink;
use crate::rtnetlink::dummy::NamedLink;

/// Time for an answer of the kernel.
const PATIENCE: Duration = Duration::from_secs(5);
/// Protocol number of the addresses (`IFA_PROTO`): set by an administrator.
const PROTOCOL: u8 = 4;

/// A reason why an address cannot be put on a device.
#[derive(Debug, Error)]
pub enum DeviceFault {
    /// The device is one of another kind.
    #[error("{device} is not a dummy device: choose another name")]
    NotDummy {
        /// Name of the device.
        device: String,
    },
    /// The name is not one that a device can have.
    #[error(
        "{device:?} is not a device name: use 1 to 15 letters, digits, dots, hyphens and underscores"
    )]
    Name {
        /// The name.
        device: String,
    },
    /// The kernel does not allow it.
    #[error(
        "{action} {device}: {error}: the process needs CAP_NET_ADMIN in the host's network namespace"
    )]
    Forbidden {
        /// Action that failed.
        action: &'static str,
        /// Name of the device.
        device: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// The kernel failed.
    #[error("{action} {device}: {error}")]
    Failed {
        /// Action that failed.
        action: &'static str,
        /// Name of the device.
        device: String,
        /// The kernel's answer.
        error: io::Error,
    },
}

/// Makes the dummy device where it does not exist (a bridge without ports where the kernel has no dummy devices), brings it up, and puts the addresses on it. What is there
/// already stays. Nothing of it ends with the process: while a new one starts, packets to the addresses are refused on this host instead of leaving it.
///
/// # Errors
/// Fails if the device is of another kind, or the kernel does not do it.
pub fn ensure(device: &str, addresses: &[IpAddr]) -> Result<(), DeviceFault> {
    if !is_device_name(device) {
        return Err(DeviceFault::Name { device: device.to_owned() });
    }
    let failed = |action| move |error: Errno| fault(action, device, error.into());
    let kernel = Rtnetlink::open(PATIENCE)
        .map_err(|error| fault("cannot open a netlink socket for", device, error))?;
    let look = || kernel.link_named(device).map_err(failed("cannot look for"));
    if look()?.is_none() {
        let make = |kind| kernel.add_link(device, kind);
        // Kernels without the module have bridges, and a bridge without ports is the same.
        let made = match make("dummy") {
            Err(Errno::OPNOTSUPP) => make("bridge"),
            made => made,
        };
        match made {
            // Another process of this host was faster.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("cannot make dummy device")(error)),
        }
    }
    let not_dummy = || DeviceFault::NotDummy { device: device.to_owned() };
    let link = look()?.filter(is_fit).ok_or_else(not_dummy)?;
    kernel.set_up(link.index).map_err(failed("cannot bring up"))?;
    let held = kernel.addresses().map_err(failed("cannot read the addresses of"))?;
    for address in addresses {
        if !held.iter().any(|it| it.index == link.index && it.net.addr() == *address) {
            let prefix_len = if address.is_ipv4() { 32 } else { 128 };
            let interface = device.to_owned();
            let assigned = AssignedAddress { interface, prefix_len, valid: None };
            let added = kernel.add_address(link.index, *address, &assigned, PROTOCOL);
            added.map_err(failed("cannot add the address to"))?;
        }
        kernel.await_local(*address).map_err(failed("no local route to the address of"))?;
    }
    Ok(())
}

/// Removes the device, if it is a dummy device. One that does not exist is no error.
///
/// # Errors
/// Fails if the device is of another kind, or the kernel does not do it.
pub fn remove(device: &str) -> Result<(), DeviceFault> {
    let kernel = Rtnetlink::open(PATIENCE)
        .map_err(|error| fault("cannot open a netlink socket for", device, error))?;
    let look = kernel.link_named(device);
    let Some(link) = look.map_err(|error| fault("cannot look for", device, error.into()))? else {
        return Ok(());
    };
    if !is_fit(&link) {
        return Err(DeviceFault::NotDummy { device: device.to_owned() });
    }
    kernel.remove_link(link.index).map_err(|error| fault("cannot remove", device, error.into()))
}

/// Returns whether a link is a dummy, or a bridge that was made here.
fn is_fit(link: &NamedLink) -> bool {
    link.kind.as_deref() == Some("dummy") || link.ours
}

fn fault(action: &'static str, device: &str, error: io::Error) -> DeviceFault {
    let device = device.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => DeviceFault::Forbidden { action, device, error },
        _ => DeviceFault::Failed { action, device, error },
    }
}

fn is_device_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=15).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}
