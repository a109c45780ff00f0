//! Evaluates Squid's `http_access` and `tcp_outgoing_address` lines in order; the first that matches decides.
//!
//! For a client that is known by its port, network and user, the tests about clients are decided; what is left asks about destinations.

use std::collections::HashMap;
use std::net::IpAddr;

use super::acl::{Acl, Acls};
use super::addresses::Membership;
use super::doors::Door;
use super::lines::Line;
use super::notes::Notes;

/// Most combinations that one line may be taken apart into.
const COMBINATIONS: usize = 256;
/// Deepest nesting of lists.
const DEPTH: usize = 8;

/// One list that a line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Test {
    pub(super) not: bool,
    pub(super) acl: usize,
}

/// A line that allows or denies where all its tests hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// Place among all lines.
    pub(super) line: usize,
    pub(super) tests: Vec<Test>,
}

/// A line that chooses an address where all its tests hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outgoing {
    pub(super) leaves: Leaves,
    pub(super) line: usize,
    pub(super) tests: Vec<Test>,
}

/// The address that a `tcp_outgoing_address` line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leaves {
    At(IpAddr),
    /// `0.0.0.0` or `::`: the address that the host chooses, in one family.
    HostsChoice {
        is_v4: bool,
    },
    /// Not an address.
    Unreadable,
}

impl Leaves {
    /// Returns whether Squid looks at the line for a destination of this family.
    pub(super) fn is_for(self, is_v4: bool) -> bool {
        match self {
            Self::At(address) => address.is_ipv4() == is_v4,
            Self::HostsChoice { is_v4: own } => own == is_v4,
            Self::Unreadable => true,
        }
    }
}

/// The `http_access` lines.
pub(super) fn rules(lines: &[Line], acls: &mut Acls) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.name() == "http_access") {
        let Some((word, lists)) = line.arguments().split_first() else { continue };
        let allow = word == "allow";
        let combinations = expand(lists, acls, 0);
        rules.extend(combinations.into_iter().map(|tests| Rule { allow, line: at, tests }));
    }
    rules
}

/// The `tcp_outgoing_address` lines.
pub(super) fn outgoing(lines: &[Line], acls: &mut Acls, notes: &mut Notes) -> Vec<Outgoing> {
    let mut all = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.name() != "tcp_outgoing_address" {
            continue;
        }
        let Some((written, lists)) = line.arguments().split_first() else { continue };
        let bare = written.trim_start_matches('[').trim_end_matches(']');
        let leaves = match bare.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(address) if address.is_unspecified() => {
                Leaves::HostsChoice { is_v4: address.is_ipv4() }
            }
            Ok(address) => Leaves::At(address),
            Err(_) => {
                notes.other_address(
                    line,
                    format!("{written} is no address: clients that the line is for are left out"),
                );
                Leaves::Unreadable
            }
        };
        let combinations = expand(lists, acls, 0);
        all.extend(combinations.into_iter().map(|tests| Outgoing { leaves, line: at, tests }));
    }
    all
}

/// The combinations of tests that words mean: all words must hold, `any-of` and `all-of` lists are taken apart.
fn expand(words: &[String], acls: &mut Acls, depth: usize) -> Vec<Vec<Test>> {
    let mut combinations = vec![Vec::new()];
    for word in words {
        let (not, name) = word.strip_prefix('!').map_or((false, &**word), |name| (true, name));
        let alternatives = alternatives(name, not, acls, depth);
        combinations = product(&combinations, &alternatives, acls);
    }
    combinations
}

fn product(one: &[Vec<Test>], other: &[Vec<Test>], acls: &mut Acls) -> Vec<Vec<Test>> {
    if one.len() * other.len() > COMBINATIONS {
        let acl = acls.unknown("too many combinations of lists");
        return vec![vec![Test { not: false, acl }]];
    }
    let both = |a: &Vec<Test>, b: &Vec<Test>| a.iter().chain(b).copied().collect();
    one.iter().flat_map(|a| other.iter().map(move |b| both(a, b))).collect()
}

fn alternatives(name: &str, not: bool, acls: &mut Acls, depth: usize) -> Vec<Vec<Test>> {
    let acl = acls.find(name).unwrap_or_else(|| acls.unknown(name));
    let Acl::Group { any, members } = &acls.at(acl).acl else {
        return vec![vec![Test { not, acl }]];
    };
    if depth >= DEPTH {
        let acl = acls.unknown("lists of lists that are too deep");
        return vec![vec![Test { not, acl }]];
    }
    let (any, members) = (*any, members.clone());
    let each = members.iter().map(|member| {
        let (inner, name) = match member.strip_prefix('!') {
            Some(name) => (!not, name),
            None => (not, &**member),
        };
        alternatives(name, inner, acls, depth + 1)
    });
    let each: Vec<_> = each.collect();
    // Not any of them means none of each, and the other way round.
    if any == not {
        each.iter().fold(vec![Vec::new()], |all, one| product(&all, one, acls))
    } else {
        each.into_iter().flatten().collect()
    }
}

/// The user of a client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// Not known yet, or never asked.
    Unasked,
    /// Without credentials.
    Anonymous,
    /// A user whom a list names.
    Named(String),
    /// Any other user with a password.
    Other,
}

/// A client as far as lists tell it from others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) door: &'a Door,
    pub(super) member: &'a Membership,
    /// The bit of `member` for each list of networks.
    pub(super) bits: &'a HashMap<usize, usize>,
    pub(super) who: &'a Who,
}

enum Answer {
    Yes,
    No,
    /// Squid asks the client for credentials.
    Challenge,
    /// It depends on the destination.
    Later,
}

impl Client<'_> {
    fn answer(&self, test: Test, acls: &Acls) -> Answer {
        let holds = match &acls.at(test.acl).acl {
            Acl::All => true,
            Acl::Nothing => false,
            Acl::Sources(_) => self.bits.get(&test.acl).is_some_and(|bit| self.member.has(*bit)),
            Acl::PortNumbers(ports) => ports.has(self.door.port),
            Acl::PortNames(names) => names.contains(&self.door.name),
            Acl::LocalAddresses(set) => set.contains(self.door.address),
            Acl::Users(users) => match self.who {
                Who::Unasked | Who::Anonymous => return Answer::Challenge,
                Who::Named(user) => users.has(user),
                Who::Other => users.any,
            },
            Acl::Destinations(_) | Acl::Names(_) | Acl::Ports(_) | Acl::Methods(_) => {
                return Answer::Later;
            }
            Acl::Group { .. } | Acl::Unknown(_) => return Answer::Later,
        };
        if holds == test.not { Answer::No } else { Answer::Yes }
    }
}

/// Remaining `http_access` lines for one client.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Access {
    /// Rules that depend on the destination, in order.
    pub(super) rules: Vec<Rule>,
    /// What the rest of requests gets.
    pub(super) last: bool,
    /// The line that says so.
    pub(super) last_line: usize,
}

impl Access {
    /// Returns whether there is anything the client might be allowed.
    pub(super) fn lets_in(&self) -> bool {
        self.last || self.rules.iter().any(|rule| rule.allow)
    }

    /// The line of the first rule that allows something.
    pub(super) fn first_allow(&self) -> usize {
        let allow = self.rules.iter().find(|rule| rule.allow);
        allow.map_or(self.last_line, |rule| rule.line)
    }
}

/// The rules that are left for a client, and whether it is asked for credentials anywhere.
pub(super) fn access(rules: &[Rule], client: &Client<'_>, acls: &Acls) -> (Access, bool) {
    let mut access = Access::default();
    let mut challenged = false;
    // Squid does the opposite of its last line where none matches.
    if let Some(last) = rules.last() {
        (access.last, access.last_line) = (!last.allow, last.line);
    }
    for rule in rules {
        let mut left = Rule { tests: Vec::new(), ..rule.clone() };
        let mut matches = true;
        for test in &rule.tests {
            match client.answer(*test, acls) {
                Answer::Yes => {}
                Answer::Later => left.tests.push(*test),
                Answer::No => matches = false,
                Answer::Challenge => {
                    challenged = true;
                    left.allow = false;
                    break;
                }
            }
            if !matches {
                break;
            }
        }
        if !matches {
            continue;
        }
        if left.tests.is_empty() {
            (access.last, access.last_line) = (left.allow, left.line);
            break;
        }
        access.rules.push(left);
    }
    while access.rules.last().is_some_and(|rule| rule.allow == access.last) {
        access.rules.pop();
    }
    (access, challenged)
}

/// The addresses a client leaves from.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaving {
    /// Where no line about destinations matches: IPv4, IPv6.
    pub(super) main: [Option<(Leaves, usize)>; 2],
    /// Lines about destinations that come first and name another address.
    pub(super) others: Vec<Outgoing>,
}

/// The lines that are left for a client.
pub(super) fn leaving(outgoing: &[Outgoing], client: &Client<'_>, acls: &Acls) -> Leaving {
    let mut leaving = Leaving::default();
    for (at, is_v4) in [true, false].into_iter().enumerate() {
        let mut others: Vec<Outgoing> = Vec::new();
        for line in outgoing.iter().filter(|line| line.leaves.is_for(is_v4)) {
            let mut left = Outgoing { tests: Vec::new(), ..line.clone() };
            let matches = line.tests.iter().all(|test| match client.answer(*test, acls) {
                Answer::Yes => true,
                Answer::Later => {
                    left.tests.push(*test);
                    true
                }
                // These lines ask no client for credentials. One that shows some unasked is known or not, as Squid's cache of users has it.
                Answer::Challenge if *client.who == Who::Unasked => {
                    left.tests.push(*test);
                    true
                }
                Answer::No | Answer::Challenge => false,
            });
            if !matches {
                continue;
            }
            if left.tests.is_empty() {
                leaving.main[at] = Some((left.leaves, left.line));
                break;
            }
            others.push(left);
        }
        let main = leaving.main[at].map(|(leaves, _)| leaves);
        // Lines that say the same as what follows them change nothing, but one in front of another address does.
        let last = others.iter().rposition(|line| Some(line.leaves) != main);
        others.truncate(last.map_or(0, |last| last + 1));
        leaving.others.extend(others);
    }
    leaving
}
