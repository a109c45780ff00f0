//! What is handed on to the next process, taken from a compile and made a compile again.
//!
//! The last good documents are compiled with the claims of the earlier process, so that all of them hold what they held; what the files say
//! now is compiled after that, as if it were a change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use durward_model::verdict::Outcome;
use durward_model::{EgressAddress, TenantId};
use serde::{Deserialize, Serialize};

use super::addresses::{Held, Role};
use super::keys::HeldKey;
use super::mapping::{self, MappingId};
use super::roster::Past;
use super::transparent::Wish;
use super::{Compiled, Memory, whole, words};
use crate::certificate::{hex, sha256};
use crate::resources::{Content, Document, Source};
use crate::source::file::FileSource;
use crate::state::{AddressState, MappingState, RoleState, State, TenantState, Writer};

impl Compiled {
    /// Returns what the next process must know of this compile.
    #[must_use]
    pub fn state(&self) -> State {
        let mut writer = Writer::new();
        let mut tenants: Vec<_> = self.memory.tenants.iter().collect();
        tenants.sort_by_key(|(_, past)| past.seniority);
        for (id, past) in tenants {
            let good = past.good.as_deref().map(|good| text_of(&mut writer, good));
            writer.tenant(tenant_state(id, past, good));
        }
        for (id, past) in &*self.memory.mappings {
            let good = past.good.as_deref().map(|good| text_of(&mut writer, good));
            writer.mapping(MappingState {
                tenant: id.tenant.to_string(),
                name: id.name.to_string(),
                file: Arc::clone(&past.file),
                seniority: past.seniority,
                created: past.created.clone(),
                shared: past.shared,
                good,
            });
        }
        writer.finish()
    }

    /// Returns a summary of what is served, for comparing it with what another process would serve from the same files.
    #[must_use]
    pub fn served(&self) -> Served {
        let tenants = self.memory.tenants.iter().filter_map(|(id, past)| {
            let tenant = past.served.as_ref()?;
            let doors = tenant.listeners.iter().chain(&tenant.transparent);
            let mut parts: Vec<String> =
                doors.clone().map(|door| format!("listener {door}")).collect();
            parts.extend(doors.flat_map(|door| {
                let names = door.names.iter().flatten();
                names.map(move |name| format!("name {name} at {door}"))
            }));
            parts.extend(tenant.egress.iter().map(|address| format!("egress address {address}")));
            Some((format!("tenant {id}"), Part::new(past.outcome, past.good.as_deref(), parts)))
        });
        let mappings = self.memory.mappings.iter().filter_map(|(id, past)| {
            let mapping = past.served()?;
            let addresses = mapping.addresses.iter();
            let parts = addresses.flat_map(|address| {
                let ports = mapping.ports.iter();
                ports.map(move |port| format!("{address} {} {}", port.protocol, port.ports))
            });
            let part = Part::new(past.outcome, past.good.as_deref(), parts.collect());
            Some((id.to_string(), part))
        });
        let mut served: BTreeMap<String, Part> = tenants.chain(mappings).collect();
        for rule in self.snapshot.nat.egress.iter().filter(|rule| rule.enrolled) {
            // Older processes call the rule of a mapping by the mapping's name alone, and must be understood in a hand-over. That may be the
            // name of the tenant's own rule; then both are one part, which lacks what either lacks.
            let name = rule.mapping().unwrap_or(&rule.name);
            let name = format!("egress rule {}/{name}", rule.tenant);
            let part = || Part::new(Outcome::Accepted, None, Vec::new());
            let part = served.entry(name).or_insert_with(part);
            part.parts.extend(rule.sources.iter().map(|source| format!("network {source}")));
        }
        Served(served)
    }
}

fn text_of(writer: &mut Writer, good: &Source) -> usize {
    writer.text(&good.file, good.first_line, &good.text)
}

fn tenant_state(id: &TenantId, past: &Past, good: Option<usize>) -> TenantState {
    let role = |role| match role {
        Role::Ingress => RoleState::Ingress,
        Role::Egress => RoleState::Egress,
        Role::Mapped => RoleState::Mapped,
        Role::Listen => RoleState::Listen,
    };
    let addresses = past.addresses.iter().map(|held| AddressState {
        address: held.address,
        role: role(held.role),
        shared: held.shared,
    });
    let listeners = past.served.iter().flat_map(|tenant| &tenant.listeners);
    TenantState {
        name: id.to_string(),
        file: Arc::clone(&past.file),
        seniority: past.seniority,
        created: past.created.clone(),
        good,
        names: listeners
            .clone()
            .flat_map(|listener| {
                let names = listener.names.iter().flatten();
                names.map(|name| (listener.address.0, listener.port, name.to_string()))
            })
            .collect(),
        listeners: listeners.map(|listener| listener.key()).collect(),
        addresses: addresses.collect(),
        egress: past.egress.iter().map(|address| address.0).collect(),
        sources: past.sources.clone(),
        keys: past.keys.iter().map(|held| (hex(&held.key), held.shared)).collect(),
    }
}

/// Compiles what an earlier process served, for the next compile to begin from. Performs blocking I/O: of the files that documents refer to only
/// the names were kept.
#[must_use]
pub fn restore(state: &State, source: &FileSource, now: i64) -> Compiled {
    let parsed = source.parse_again(&state.texts);
    let good = Good::of(&parsed);
    let mut documents = Vec::with_capacity(parsed.len());
    let mut tenants = HashMap::with_capacity(state.tenants.len());
    for tenant in &state.tenants {
        let Ok(id) = TenantId::new(&tenant.name) else { continue };
        let document = tenant.good.and_then(|at| good.tenants.get(&(at, id.clone())).copied());
        documents.extend(document.cloned());
        tenants.insert(id, Arc::new(tenant_past(tenant, document)));
    }
    let mut mappings = BTreeMap::new();
    for mapping in &state.mappings {
        let tenant = TenantId::new(&mapping.tenant).ok();
        let name = words::mapping_name(&mapping.name).ok();
        let Some((tenant, name)) = tenant.zip(name) else { continue };
        let id = MappingId { tenant, name };
        let document = mapping.good.and_then(|at| good.mappings.get(&(at, id.clone())).copied());
        documents.extend(document.cloned());
        let good = document.map(|document| Arc::clone(&document.source));
        mappings.insert(id, mapping::Past::of_earlier(mapping, good));
    }
    let resources = source.with_references(documents);
    let (tenants, mappings) = (Arc::new(tenants), Arc::new(mappings));
    let memory = Memory { tenants, mappings, ..Memory::default() };
    let earlier = Compiled { memory, ..Compiled::default() };
    let mut restored = whole(&resources, Some(&earlier), now);
    // Those without a good document hold their age all the same, and those with one what it does not name: it is not the one that was served
    // last if that had errors.
    let tenants = Arc::make_mut(&mut restored.memory.tenants);
    for (id, past) in &*earlier.memory.tenants {
        match tenants.get_mut(id) {
            Some(known) => Arc::make_mut(known).hold_too(past),
            None => drop(tenants.insert(id.clone(), Arc::clone(past))),
        }
    }
    // A mapping that is not served here, because the last good document of its tenant is not, is held all the same.
    let mappings = Arc::make_mut(&mut restored.memory.mappings);
    for (id, past) in &*earlier.memory.mappings {
        if mappings.get(id).is_none_or(|known| known.served().is_none()) {
            mappings.insert(id.clone(), past.clone());
        }
    }
    restored.memory.seen.complete = false;
    restored
}

/// Documents by the position of their text and by what they are about.
#[derive(Default)]
struct Good<'d> {
    tenants: HashMap<(usize, TenantId), &'d Document>,
    mappings: HashMap<(usize, MappingId), &'d Document>,
}

impl<'d> Good<'d> {
    fn of(parsed: &'d [(usize, Document)]) -> Self {
        let mut good = Self::default();
        for (at, document) in parsed {
            match &document.content {
                Content::Tenant(tenant) => {
                    if let Ok(id) = TenantId::new(&tenant.metadata.name) {
                        good.tenants.insert((*at, id), document);
                    }
                }
                Content::Mapping(mapping) => {
                    if let Some(id) = MappingId::written(mapping) {
                        good.mappings.insert((*at, id), document);
                    }
                }
                Content::Broken(_) => {}
            }
        }
        good
    }
}

fn tenant_past(state: &TenantState, document: Option<&Document>) -> Past {
    let role = |role| match role {
        RoleState::Ingress => Role::Ingress,
        RoleState::Egress => Role::Egress,
        RoleState::Mapped => Role::Mapped,
        RoleState::Listen => Role::Listen,
    };
    let addresses = state.addresses.iter().map(|held| Held {
        address: held.address,
        role: role(held.role),
        shared: held.shared,
    });
    let key = |(key, shared): &(String, bool)| Some(HeldKey { key: unhex(key)?, shared: *shared });
    let mut keys: Vec<_> = state.keys.iter().filter_map(key).collect();
    // They are looked up by halves.
    keys.sort();
    Past {
        file: Arc::clone(&state.file),
        text: document.map_or_else(|| Arc::from(""), |document| Arc::clone(&document.source.text)),
        served: None,
        outcome: Outcome::Rejected,
        good: document.map(|document| Arc::clone(&document.source)),
        listeners: state.listeners.clone(),
        names: state
            .names
            .iter()
            .filter_map(|(address, port, name)| {
                Some(((*address, *port), words::host_pattern(name).ok()?))
            })
            .collect(),
        seniority: state.seniority,
        created: state.created.clone(),
        egress: state.egress.iter().copied().map(EgressAddress).collect(),
        addresses: addresses.collect(),
        keys,
        sources: state.sources.clone(),
        transparent: Wish::None,
        claims: Arc::default(),
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Tenants, mappings and egress rules that a process serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served(BTreeMap<String, Part>);

/// What of a tenant, mapping or rule is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// 0 when all of the document is served, more when less of it is.
    lacking: u8,
    /// SHA-256 of the document that stands in, when it is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stand_in: Option<String>,
    parts: Vec<String>,
}

impl Part {
    fn new(outcome: Outcome, good: Option<&Source>, parts: Vec<String>) -> Self {
        let lacking = match outcome {
            Outcome::Accepted => 0,
            Outcome::Partial => 1,
            Outcome::KeptLastGood => 2,
            Outcome::Rejected => 3,
        };
        let stand_in = good.filter(|_| outcome == Outcome::KeptLastGood);
        let stand_in = stand_in.map(|good| sha256([good.text.as_bytes()]));
        Self { lacking, stand_in, parts }
    }
}

impl Served {
    /// Returns what `self` has and `other` lacks or has as it was earlier, a sentence for each.
    #[must_use]
    pub fn lost_in(&self, other: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for (name, had) in &self.0 {
            let Some(has) = other.0.get(name) else {
                lost.push(format!("{name} would not be served"));
                continue;
            };
            let missing = had.parts.iter().filter(|part| !has.parts.contains(part));
            lost.extend(missing.map(|part| format!("{part} of {name} would not be served")));
            if has.lacking > had.lacking {
                lost.push(format!("{name} would be served with errors that it does not have now"));
            } else if had.stand_in.is_some() && has.stand_in != had.stand_in && has.lacking > 0 {
                lost.push(format!("{name} would be served as it was still earlier"));
            }
        }
        lost
    }
}
