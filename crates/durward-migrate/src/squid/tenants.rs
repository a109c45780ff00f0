//! Clients as tenants: those that leave from the same addresses and may do the same are one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::access::{self, Access, Client, Leaves, Leaving, Outgoing, Rule, Who};
use super::acl::{Acl, Acls};
use super::addresses::{self, AddressSet};
use super::doors::Door;
use super::fault::SquidFault;
use super::lines::Line;
use super::notes::Notes;
use super::options::SquidOptions;

/// Clients that become one tenant.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) name: String,
    /// The addresses they leave from.
    pub(super) egress: Vec<IpAddr>,
    /// Ports they connect to, with their source addresses; `None` means any.
    pub(super) entries: Vec<(usize, Option<AddressSet>)>,
    /// The users among them, where users tell clients apart.
    pub(super) users: Option<BTreeSet<Who>>,
    pub(super) profile: Profile,
}

/// Properties that clients of one tenant have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Profile {
    /// First line that distinguishes them from other clients.
    first_line: usize,
    label: String,
    pub(super) access: Access,
    pub(super) leaving: Leaving,
}

impl Profile {
    /// The line that names the address of this family.
    pub(super) fn main_line(&self, is_v4: bool) -> Option<usize> {
        self.leaving.main[usize::from(!is_v4)].map(|(_, line)| line)
    }
}

/// Everything lines say about clients.
pub(super) struct Clients<'a> {
    pub(super) lines: &'a [Line],
    pub(super) acls: &'a Acls,
    pub(super) doors: &'a [Door],
    pub(super) rules: &'a [Rule],
    pub(super) outgoing: &'a [Outgoing],
    pub(super) options: &'a SquidOptions,
}

/// Ports and source addresses of clients of one profile and one set of users.
type Places = BTreeMap<usize, AddressSet>;

impl Clients<'_> {
    /// The tenants, in the order of the lines that tell them apart.
    pub(super) fn tenants(&self, notes: &mut Notes) -> Result<Vec<Tenant>, SquidFault> {
        let mut groups: BTreeMap<(Profile, Option<BTreeSet<Who>>), Places> = BTreeMap::new();
        let (bits, parts) = self.parts();
        let users = self.users();
        for (at, door) in self.doors.iter().enumerate() {
            for (member, sources) in &parts {
                let client = Client { door, member, bits: &bits, who: &Who::Unasked };
                let of_part = self.of_part(&client, &users, sources, notes);
                for (profile, users) in of_part {
                    let places = groups.entry((profile, users)).or_default();
                    let place = places.entry(at).or_default();
                    *place = place.union(sources);
                }
            }
        }
        let loopback = loopback();
        let mut tenants = Vec::with_capacity(groups.len());
        for ((profile, users), places) in groups {
            if self.is_left_out(&profile, notes) {
                continue;
            }
            let egress = self.egress(&profile)?;
            let entries = places.into_iter().map(|(door, sources)| {
                // Clients on the host itself do not come by an address that others know.
                let anywhere = sources.union(&loopback) == AddressSet::all();
                let sources =
                    if self.counts_loopback() { sources } else { sources.minus(&loopback) };
                (door, (!anywhere).then_some(sources))
            });
            let entries = entries.collect();
            tenants.push(Tenant { name: profile.label.clone(), egress, entries, users, profile });
        }
        name_apart(&mut tenants);
        Ok(tenants)
    }

    /// All addresses, split by the lists of networks that lines ask.
    fn parts(&self) -> (HashMap<usize, usize>, BTreeMap<addresses::Membership, AddressSet>) {
        let tests = self.rules.iter().flat_map(|rule| &rule.tests);
        let tests = tests.chain(self.outgoing.iter().flat_map(|line| &line.tests));
        let used: BTreeSet<usize> = tests.map(|test| test.acl).collect();
        let mut bits = HashMap::new();
        let mut sets = Vec::new();
        for acl in used {
            if let Acl::Sources(networks) = &self.acls.at(acl).acl {
                bits.insert(acl, sets.len());
                sets.push(&networks.set);
            }
        }
        let parts = addresses::split(&sets);
        (bits, parts)
    }

    /// Everyone a list of users tells apart.
    fn users(&self) -> Vec<Who> {
        let lists = self.acls.iter().filter_map(|acl| match &acl.acl {
            Acl::Users(users) => Some(users),
            _ => None,
        });
        let names: BTreeSet<&String> = lists.flat_map(|users| &users.names).collect();
        let named = names.into_iter().map(|name| Who::Named(name.clone()));
        named.chain([Who::Other, Who::Anonymous]).collect()
    }

    /// The profiles of clients from one part of the network at one port, each with its users.
    fn of_part(
        &self,
        client: &Client<'_>,
        users: &[Who],
        sources: &AddressSet,
        notes: &mut Notes,
    ) -> Vec<(Profile, Option<BTreeSet<Who>>)> {
        let (unasked, challenged) = access::access(self.rules, client, self.acls);
        let on_host = !self.counts_loopback() && loopback().covers(sources);
        let mut profiles: BTreeMap<Profile, Option<BTreeSet<Who>>> = BTreeMap::new();
        let everybody = [Who::Unasked];
        for who in if challenged { users } else { &everybody } {
            let client = Client { who, ..*client };
            let access = match who {
                Who::Unasked => unasked.clone(),
                _ => access::access(self.rules, &client, self.acls).0,
            };
            if !access.lets_in() {
                continue;
            }
            let line = &self.lines[access.first_allow()];
            if on_host {
                notes.narrower(line, "programs on the host itself are no client: give them a tenant with an address of its own");
                continue;
            }
            if *who == Who::Anonymous {
                notes.narrower(line, "it also lets in clients without credentials, where others show some: here all of them must");
                continue;
            }
            let leaving = access::leaving(self.outgoing, &client, self.acls);
            let profile = self.profile(access, leaving);
            let users = profiles.entry(profile).or_default();
            if challenged {
                users.get_or_insert_default().insert(who.clone());
            }
        }
        profiles.into_iter().collect()
    }

    fn profile(&self, access: Access, leaving: Leaving) -> Profile {
        let by_address = leaving.main.iter().flatten().filter_map(|(_, line)| {
            let outgoing = self.outgoing.iter().filter(|known| known.line == *line);
            let label = self.label(outgoing.flat_map(|outgoing| &outgoing.tests));
            (!label.is_empty()).then_some((*line, label))
        });
        let first = access.first_allow();
        let by_access = || {
            let rules = self.rules.iter().filter(|rule| rule.line == first);
            (first, self.label(rules.flat_map(|rule| &rule.tests)))
        };
        let (first_line, label) = by_address.min().unwrap_or_else(by_access);
        let label = if label.is_empty() { "everybody".to_owned() } else { label };
        Profile { first_line, label, access, leaving }
    }

    /// The names of lists about clients, as a document's name.
    fn label<'t>(&self, tests: impl Iterator<Item = &'t access::Test>) -> String {
        let about_clients = |acl: &Acl| {
            let doors =
                matches!(acl, Acl::PortNumbers(_) | Acl::PortNames(_) | Acl::LocalAddresses(_));
            doors || matches!(acl, Acl::Sources(_) | Acl::Users(_))
        };
        let mut names: Vec<&str> = Vec::new();
        for test in tests.filter(|test| !test.not) {
            let acl = self.acls.at(test.acl);
            if about_clients(&acl.acl) && !names.contains(&&*acl.name) {
                names.push(&acl.name);
            }
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = names.join("-").chars().map(plain).take(50).collect();
        name.trim_matches('-').to_owned()
    }

    /// Returns whether no address can be written for the clients. Each line that keeps them out is named.
    fn is_left_out(&self, profile: &Profile, notes: &mut Notes) -> bool {
        let unreadable =
            profile.leaving.main.iter().flatten().any(|(leaves, _)| *leaves == Leaves::Unreadable);
        let mut left_out = unreadable;
        for line in self.elsewhere(profile) {
            let expressible = line.tests.iter().any(|test| !is_unknown(self.acls, test.acl));
            if !expressible {
                let lists: Vec<&str> =
                    line.tests.iter().map(|test| &*self.acls.at(test.acl).name).collect();
                let text = format!(
                    "{} has no equal, and one client leaves from one address: the clients of {} are left out",
                    lists.join(" "),
                    profile.label
                );
                notes.other_address(&self.lines[line.line], text);
                left_out = true;
            }
        }
        left_out
    }

    /// The lines about destinations that send some of the clients' requests from another address.
    pub(super) fn elsewhere<'p>(
        &self,
        profile: &'p Profile,
    ) -> impl Iterator<Item = &'p Outgoing> + use<'p> {
        profile.leaving.others.iter().filter(|line| {
            [true, false].into_iter().enumerate().any(|(at, is_v4)| {
                let main = profile.leaving.main[at].map(|(leaves, _)| leaves);
                line.leaves.is_for(is_v4) && main != Some(line.leaves)
            })
        })
    }

    fn egress(&self, profile: &Profile) -> Result<Vec<IpAddr>, SquidFault> {
        let mut egress = Vec::new();
        for (main, is_v4) in profile.leaving.main.iter().zip([true, false]) {
            match main {
                Some((Leaves::At(address), _)) => egress.push(*address),
                _ => {
                    let given = self.options.egress.iter();
                    egress.extend(given.filter(|address| address.is_ipv4() == is_v4));
                }
            }
        }
        if egress.is_empty() {
            return Err(SquidFault::NoEgress { clients: profile.label.clone() });
        }
        Ok(egress)
    }

    /// Returns whether clients may come from the host itself.
    fn counts_loopback(&self) -> bool {
        self.doors.iter().any(|door| door.address.is_loopback())
    }
}

/// Returns whether a list has no equal here.
pub(super) fn is_unknown(acls: &Acls, acl: usize) -> bool {
    // Users are among what is left where no line asks for credentials.
    matches!(acls.at(acl).acl, Acl::Unknown(_) | Acl::Group { .. } | Acl::Users(_))
}

fn loopback() -> AddressSet {
    let range = |from: [u8; 4], to: [u8; 4]| (IpAddr::from(from), IpAddr::from(to));
    let one = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]);
    AddressSet::of([range([127, 0, 0, 0], [127, 255, 255, 255]), (one, one)])
}

fn name_apart(tenants: &mut [Tenant]) {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for tenant in tenants {
        let base = tenant.name.clone();
        let mut number = 2;
        while !known.insert(tenant.name.clone()) {
            tenant.name = format!("{base}-{number}");
            number += 1;
        }
    }
}
