//! The access lists (`acl`) a configuration names, and those that Squid has built in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use durward_control::compile::is_host_name;
use ipnet::IpNet;

use super::addresses::AddressSet;
use super::lines::Line;
use super::names::{Entry, NameSet, a_labels};
use super::notes::Notes;
use super::ports::Ports;

/// An access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acl {
    /// Every request.
    All,
    /// No request: an empty list, or one about the cache manager.
    Nothing,
    /// Clients' networks.
    Sources(Networks),
    /// Destination networks.
    Destinations(Networks),
    /// Destination names.
    Names(Arc<NameSet>),
    /// Destination ports.
    Ports(Ports),
    /// Methods.
    Methods(Vec<String>),
    /// Users that have proven who they are.
    Users(Users),
    /// The port a client connected to.
    PortNumbers(Ports),
    /// Its name.
    PortNames(Vec<String>),
    /// The address a client connected to.
    LocalAddresses(AddressSet),
    /// Other lists: any of them, or all.
    Group { any: bool, members: Vec<String> },
    /// A type that has no equal here, or values that cannot be read.
    Unknown(String),
}

/// Networks as written, and as a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Networks {
    pub(super) written: Vec<IpNet>,
    pub(super) set: AddressSet,
}

/// Users of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Users {
    pub(super) names: BTreeSet<String>,
    /// `REQUIRED`: whoever has proven who he is.
    pub(super) any: bool,
    /// `-i`: letters in either case.
    pub(super) folded: bool,
}

impl Users {
    pub(super) fn has(&self, user: &str) -> bool {
        let folded = |name: &String| self.folded && name.eq_ignore_ascii_case(user);
        self.any || self.names.contains(user) || self.names.iter().any(folded)
    }
}

/// An access list with its name.
#[derive(Clone, Debug)]
pub(super) struct NamedAcl {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) acl: Acl,
}

/// All access lists. Squid compares their names without regard to case.
#[derive(Clone, Debug, Default)]
pub(super) struct Acls {
    all: Vec<NamedAcl>,
    by_name: BTreeMap<String, usize>,
}

impl Acls {
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_ascii_lowercase()).copied()
    }

    pub(super) fn at(&self, index: usize) -> &NamedAcl {
        &self.all[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NamedAcl> {
        self.all.iter()
    }

    /// The index of a list that stands for `word`, which no `acl` line defines or which cannot be taken apart.
    pub(super) fn unknown(&mut self, word: &str) -> usize {
        self.add(word, "", Acl::Unknown(word.to_owned()))
    }

    fn add(&mut self, name: &str, kind: &str, acl: Acl) -> usize {
        if let Some(known) = self.find(name) {
            return known;
        }
        self.by_name.insert(name.to_ascii_lowercase(), self.all.len());
        self.all.push(NamedAcl { name: name.to_owned(), kind: kind.to_owned(), acl });
        self.all.len() - 1
    }
}

/// The lists that `acl` lines make; several lines of one name add up.
pub(super) fn read(lines: &[Line], notes: &mut Notes) -> Acls {
    let mut acls = builtin();
    for line in lines.iter().filter(|line| line.name() == "acl") {
        let [name, kind, values @ ..] = line.arguments() else {
            notes.wider(line, "an acl without a name and a type is left out, Squid refuses it");
            continue;
        };
        let read = one(line, name, kind, values, notes);
        let Some(known) = acls.find(name) else {
            acls.add(name, kind, read);
            continue;
        };
        let known = &mut acls.all[known];
        if known.kind != *kind {
            let text =
                format!("acl {name} is of type {} above: Squid refuses this line", known.kind);
            notes.wider(line, text);
            continue;
        }
        let before = std::mem::replace(&mut known.acl, Acl::Nothing);
        known.acl = join(before, read);
    }
    acls
}

fn builtin() -> Acls {
    let mut acls = Acls::default();
    let networks =
        |texts: &[&str]| Networks::of(texts.iter().filter_map(|text| text.parse().ok()).collect());
    let loopback = networks(&["127.0.0.1/32", "::1/128"]);
    let here = networks(&["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"]);
    let link = networks(&["169.254.0.0/16", "fe80::/10"]);
    acls.add("all", "src", Acl::All);
    acls.add("manager", "url_regex", Acl::Nothing);
    acls.add("localhost", "src", Acl::Sources(loopback));
    acls.add("to_localhost", "dst", Acl::Destinations(here));
    acls.add("to_linklocal", "dst", Acl::Destinations(link));
    acls.add("CONNECT", "method", Acl::Methods(vec!["CONNECT".to_owned()]));
    acls
}

/// The list one line makes, with what is in the files it names.
fn one(line: &Line, name: &str, kind: &str, values: &[String], notes: &mut Notes) -> Acl {
    let mut flags = values.iter().take_while(|value| value.starts_with('-'));
    let folded = flags.any(|flag| flag == "-i");
    let values = values.iter().skip_while(|value| value.starts_with('-'));
    let mut all: Vec<&str> = values.map(String::as_str).collect();
    for listed in &line.listed {
        match &listed.values {
            Ok(values) => all.extend(values.iter().map(String::as_str)),
            Err(why) => {
                notes.elsewhere(line, format!("acl {name}: {} cannot be read: {why}", listed.path));
                return Acl::Unknown(name.to_owned());
            }
        }
    }
    if all.is_empty() && is_known(kind) {
        notes.elsewhere(line, format!("acl {name} is empty and matches nothing, as in Squid"));
        return Acl::Nothing;
    }
    let read = match kind {
        "dstdomain" => Ok(Acl::Names(Arc::new(names(line, name, &all, notes)))),
        "proxy_auth" => Ok(Acl::Users(users(&all, folded))),
        _ => plain(kind, &all),
    };
    read.unwrap_or_else(|why| {
        notes.elsewhere(line, format!("acl {name}: {why}"));
        Acl::Unknown(name.to_owned())
    })
}

fn is_known(kind: &str) -> bool {
    !matches!(plain(kind, &[]), Ok(Acl::Unknown(_))) || matches!(kind, "dstdomain" | "proxy_auth")
}

fn plain(kind: &str, values: &[&str]) -> Result<Acl, String> {
    let ports = || {
        let words: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let read = Ports::parse(&words).map_err(str::to_owned);
        read.map_err(|word| format!("{word} is no port or range of ports"))
    };
    let owned = || values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    Ok(match kind {
        "src" => match networks(values)? {
            networks if networks.set == AddressSet::all() => Acl::All,
            networks => Acl::Sources(networks),
        },
        "dst" => match networks(values)? {
            networks if networks.set == AddressSet::all() => Acl::All,
            networks => Acl::Destinations(networks),
        },
        "localip" => Acl::LocalAddresses(networks(values)?.set),
        "port" => Acl::Ports(ports()?),
        "method" => Acl::Methods(values.iter().map(|value| value.to_ascii_uppercase()).collect()),
        "localport" | "myport" => Acl::PortNumbers(ports()?),
        "myportname" => Acl::PortNames(owned()),
        "any-of" => Acl::Group { any: true, members: owned() },
        "all-of" => Acl::Group { any: false, members: owned() },
        // The cache manager is not here.
        "proto" if values == ["cache_object"] => Acl::Nothing,
        "url_regex" if !values.is_empty() && values.iter().all(is_manager) => Acl::Nothing,
        _ => Acl::Unknown(kind.to_owned()),
    })
}

fn is_manager(value: &&str) -> bool {
    value.contains("cache_object") || value.contains("squid-internal-mgr")
}

fn join(before: Acl, more: Acl) -> Acl {
    match (before, more) {
        (Acl::Unknown(why), _) | (_, Acl::Unknown(why)) => Acl::Unknown(why),
        (Acl::All, _) | (_, Acl::All) => Acl::All,
        (Acl::Nothing, acl) | (acl, Acl::Nothing) => acl,
        (Acl::Sources(all), Acl::Sources(more)) => Acl::Sources(all.and(more)),
        (Acl::Destinations(all), Acl::Destinations(more)) => Acl::Destinations(all.and(more)),
        (Acl::LocalAddresses(all), Acl::LocalAddresses(more)) => {
            Acl::LocalAddresses(all.union(&more))
        }
        (Acl::Names(all), Acl::Names(more)) => Acl::Names(Arc::new(all.union(&more))),
        (Acl::Methods(mut all), Acl::Methods(more)) => {
            all.extend(more);
            Acl::Methods(all)
        }
        (Acl::PortNames(mut all), Acl::PortNames(more)) => {
            all.extend(more);
            Acl::PortNames(all)
        }
        (Acl::Users(all), Acl::Users(more)) => Acl::Users(Users {
            names: all.names.into_iter().chain(more.names).collect(),
            any: all.any || more.any,
            folded: all.folded || more.folded,
        }),
        (Acl::Ports(all), Acl::Ports(more)) => Acl::Ports(all.union(&more)),
        (Acl::PortNumbers(all), Acl::PortNumbers(more)) => Acl::PortNumbers(all.union(&more)),
        (Acl::Group { any: true, mut members }, Acl::Group { any: true, members: more }) => {
            members.extend(more);
            Acl::Group { any: true, members }
        }
        // Of several `all-of` lines one is enough.
        (Acl::Group { any: false, .. }, Acl::Group { .. }) => {
            Acl::Unknown("several all-of lines".to_owned())
        }
        (_, more) => more,
    }
}

fn users(values: &[&str], folded: bool) -> Users {
    let mut users = Users { folded, ..Users::default() };
    for value in values {
        if *value == "REQUIRED" {
            users.any = true;
        } else {
            users.names.insert((*value).to_owned());
        }
    }
    users
}

/// Most values without an equivalent that the note on one list names.
const NAMED: usize = 5;

/// The names of a list. Values that no client could ask for match nothing in Squid either; each is named.
fn names(line: &Line, name: &str, values: &[&str], notes: &mut Notes) -> NameSet {
    let mut literals = BTreeSet::new();
    let mut odd: Vec<String> = Vec::new();
    let entries = values.iter().filter_map(|value| {
        let below = value.starts_with('.');
        let bare = value.strip_prefix('.').unwrap_or(value);
        if let Ok(address) = bare.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            literals.insert(address.to_canonical());
            return None;
        }
        if is_host_name(bare) && !bare.ends_with('.') {
            return Some(Entry { name: Arc::from(bare.to_ascii_lowercase()), below });
        }
        let suggested = (!bare.is_ascii()).then(|| a_labels(bare)).flatten();
        let suggested = suggested.filter(|name| is_host_name(name));
        odd.push(match suggested {
            Some(ascii) => {
                let dot = if below { "." } else { "" };
                format!(
                    "{value:?} (clients ask for {dot}{ascii}, which it does not match: write that)"
                )
            }
            None => format!("{value:?}"),
        });
        None
    });
    let mut set: NameSet = entries.collect();
    set.literals = literals;
    if !odd.is_empty() {
        let more = odd.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        odd.truncate(NAMED);
        let text = format!(
            "acl {name}: no host name and left out, for it matches nothing in Squid either: {}{more}",
            odd.join(", ")
        );
        notes.narrower(line, text);
    }
    set
}

impl Networks {
    fn of(written: Vec<IpNet>) -> Self {
        let set = AddressSet::of_nets(&written);
        Self { written, set }
    }

    fn and(mut self, more: Self) -> Self {
        self.written.extend(more.written);
        Self { set: self.set.union(&more.set), ..self }
    }
}

/// `192.0.2.1`, `192.0.2.0/24`, `192.0.2.0/255.255.255.0`, `192.0.2.1-192.0.2.9`, `10.0.0.0-10.0.3.0/24`, `all`.
fn networks(values: &[&str]) -> Result<Networks, String> {
    let mut networks = Vec::with_capacity(values.len());
    for value in values {
        let read = network(value);
        networks.extend(read.ok_or_else(|| {
            format!(
                "{value} is no network: Squid looks names up once at its start, write the addresses"
            )
        })?);
    }
    Ok(Networks::of(networks))
}

fn network(value: &str) -> Option<Vec<IpNet>> {
    let both = || ["0.0.0.0/0", "::/0"].iter().map(|net| net.parse().ok()).collect();
    match value {
        "all" => return both(),
        "ipv4" => return Some(vec!["0.0.0.0/0".parse().ok()?]),
        "ipv6" => return Some(vec!["::/0".parse().ok()?]),
        _ => {}
    }
    let (addresses, mask) = match value.split_once('/') {
        None => (value, None),
        Some((addresses, mask)) => (addresses, Some(mask)),
    };
    let masked = |address: &str| -> Option<IpNet> {
        let address: IpAddr = address.parse().ok()?;
        let net = match mask {
            None => IpNet::from(address),
            Some(mask) => match mask.parse::<IpAddr>() {
                Ok(mask) => IpNet::with_netmask(address, mask).ok()?,
                Err(_) => IpNet::new(address, mask.parse().ok()?).ok()?,
            },
        };
        Some(net.trunc())
    };
    let Some((from, to)) = addresses.split_once('-') else {
        return Some(vec![masked(addresses)?]);
    };
    // Squid compares the masked address of the client with both masked ends: a range of whole networks.
    let (from, to) = (masked(from)?.network(), masked(to)?.broadcast());
    (from.is_ipv4() == to.is_ipv4() && from <= to).then(|| AddressSet::of([(from, to)]).nets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_in_every_spelling() {
        for (value, nets) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.9/24", "192.0.2.0/24"),
            ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.4-192.0.2.6", "192.0.2.4/31 192.0.2.6/32"),
            ("10.9.0.0-10.9.3.0/24", "10.9.0.0/22"),
            ("10.0.0.1-10.0.0.9/32", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/30 10.0.0.8/31"),
            ("10.9.0.7-10.9.1.9/255.255.255.0", "10.9.0.0/23"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::-2001:db8:1::/48", "2001:db8::/47"),
        ] {
            let read: Vec<String> =
                network(value).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(read.join(" "), nets, "{value}");
        }
        for value in [
            "example.com",
            "192.0.2.9-192.0.2.1",
            "192.0.2.0/33",
            "",
            "192.0.2.1-::1",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(network(value), None, "{value}");
        }
    }
}
