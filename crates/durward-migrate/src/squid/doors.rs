//! Reads the listening ports: `http_port` and `https_port`.

use std::net::IpAddr;
use std::sync::Arc;

use super::acl::{Acl, Acls};
use super::addresses::AddressSet;
use super::fault::SquidFault;
use super::lines::Line;
use super::notes::Notes;

/// An address and port that clients are configured with.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// The name by which `myportname` means it.
    pub(super) name: String,
    /// The line it comes from, by its place among all lines.
    pub(super) line: usize,
}

/// Ports that are not for clients that know a proxy, and the place where their like is configured here.
const OTHER_MODES: [(&str, &str); 5] = [
    ("intercept", "its clients know no proxy, write egress.transparent and egress.sources"),
    ("transparent", "its clients know no proxy, write egress.transparent and egress.sources"),
    ("tproxy", "its clients know no proxy, write egress.transparent and egress.sources"),
    ("accel", "it is a reverse proxy, write ingress"),
    ("require-proxy-header", "its clients come through a load balancer, write the proxy's listen"),
];

pub(super) fn read(
    lines: &[Line],
    acls: &Acls,
    addresses: &[IpAddr],
    notes: &mut Notes,
) -> Result<Vec<Door>, SquidFault> {
    let mut doors: Vec<Door> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((place, options)) = line.arguments().split_first() else { continue };
        match line.name() {
            "http_port" => {}
            "https_port" => {
                let text = format!(
                    "{place} is left out, for keys stay where they are: copy chain and key beside the documents and give the \
                     tenants' proxy entries a port of their own with certificate: {{certificateFile, keyFile}}"
                );
                notes.narrower(line, text);
                continue;
            }
            _ => continue,
        }
        let mode = OTHER_MODES.iter().find(|(mode, _)| options.iter().any(|word| word == mode));
        if let Some((mode, cure)) = mode {
            notes.narrower(line, format!("{place} ({mode}) is left out: {cure}"));
            continue;
        }
        let Some((written, port)) = split(place) else {
            notes.narrower(line, format!("{place} is no address and port: left out"));
            continue;
        };
        let name = options.iter().find_map(|option| option.strip_prefix("name=")).unwrap_or(place);
        for address in known(written, acls, addresses, line, place)? {
            if doors.iter().any(|door| (door.address, door.port) == (address, port)) {
                notes.narrower(line, format!("{address} port {port} is taken by a line above"));
                continue;
            }
            doors.push(Door { address, port, name: name.to_owned(), line: at });
        }
    }
    if doors.is_empty() { Err(SquidFault::NoDoor) } else { Ok(doors) }
}

/// The address that is written, or those of the host that clients know.
fn known(
    written: Option<IpAddr>,
    acls: &Acls,
    addresses: &[IpAddr],
    line: &Line,
    place: &str,
) -> Result<Vec<IpAddr>, SquidFault> {
    if let Some(address) = written {
        return Ok(vec![address]);
    }
    let mut known = addresses.to_vec();
    for acl in acls.iter() {
        let Acl::LocalAddresses(set) = &acl.acl else { continue };
        known.extend(single(set));
    }
    known.sort_unstable();
    known.dedup();
    if known.is_empty() {
        return Err(SquidFault::NoAddress {
            file: Arc::clone(&line.file),
            line: line.number,
            door: place.to_owned(),
        });
    }
    Ok(known)
}

/// The addresses that `localip` lists name one by one.
fn single(set: &AddressSet) -> Vec<IpAddr> {
    let nets = set.nets().into_iter();
    let alone = nets.filter(|net| net.prefix_len() == net.max_prefix_len());
    alone.map(|net| net.addr()).collect()
}

/// `3128`, `192.0.2.1:3128`, `[2001:db8::1]:3128`; a name in place of the address counts as none.
fn split(place: &str) -> Option<(Option<IpAddr>, u16)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match place.rsplit_once(':') {
        None => Some((None, port(place)?)),
        Some((address, number)) => {
            let address = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            let address = address.ok().filter(|address| !address.is_unspecified());
            Some((address.map(|address| address.to_canonical()), port(number)?))
        }
    }
}
