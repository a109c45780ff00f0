//! State that must survive the process: the holders of claims, and the last good documents. Written to a file and handed over to a younger process.
//!
//! Of other files it holds nothing but hashes: of the public parts of keys, and of secrets that clients or the gateway show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use durward_model::transport::Transport;
use durward_model::{Kind, ListenerKey, ResourceId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::document::Source;

/// The version of the format written here. A reader refuses others: they are from a newer Durward.
const VERSION: u32 = 1;
/// The most bytes of documents that are kept, as they are written; of more, those of the largest tenants are left out, the claims are not.
const MOST_TEXT: usize = 64 << 20;
/// The largest state that is read, in bytes.
pub const LARGEST: u64 = 256 << 20;

/// Holders of claims, and the last good documents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    version: u32,
    /// The texts of documents; a `routing.json` is one text of many tenants.
    pub(crate) texts: Vec<Text>,
    pub(crate) tenants: Vec<TenantState>,
    pub(crate) mappings: Vec<PartState>,
    /// Other objects that add to tenants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) contributions: Vec<PartState>,
    /// Tenants whose documents were left out.
    #[serde(skip)]
    left_out: BTreeSet<String>,
}

/// The text of a document, and where it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Text {
    pub(crate) file: Arc<str>,
    pub(crate) first_line: u32,
    pub(crate) text: Arc<str>,
    /// The object of an API server that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<ResourceId>,
}

/// Claims that a tenant holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TenantState {
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    pub(crate) seniority: u64,
    /// Identifier of the object, which no other ever had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Arc<str>>,
    /// The position among the texts of the last document that anything is served from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<usize>,
    /// Documents before it that stand in for its mistakes, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) earlier: Vec<EarlierState>,
    /// True if the last document lacks more than listeners.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leans: bool,
    /// SHA-256 in hexadecimal of what its file said last, if that is another text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<Arc<str>>,
    /// The upstreams that are served, if not all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstreams: Option<Vec<String>>,
    /// Those of them that do not leave from all of the tenant's egress addresses, and what they leave from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) upstream_sources: Vec<(String, Vec<IpAddr>)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listeners: Vec<(IpAddr, u16)>,
    /// Those for datagrams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) udp_listeners: Vec<(IpAddr, u16)>,
    /// Names that its listeners have where they share address and port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) names: Vec<(IpAddr, u16, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) addresses: Vec<AddressState>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) egress: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sources: Vec<IpNet>,
    /// Those that only objects ask for that add to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) added_sources: Vec<IpNet>,
    /// Listeners that only such objects have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) added_listeners: Vec<(IpAddr, u16)>,
    /// SHA-256 of public keys and of secrets in hexadecimal, and whether they are shared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) keys: Vec<(String, bool)>,
}

impl TenantState {
    /// Returns the keys of its listeners.
    pub(crate) fn listener_keys(&self) -> impl Iterator<Item = ListenerKey> + '_ {
        joined(&self.listeners, &self.udp_listeners)
    }
}

impl EarlierState {
    /// Returns the keys of its listeners.
    pub(crate) fn listener_keys(&self) -> impl Iterator<Item = ListenerKey> + '_ {
        joined(&self.listeners, &self.udp_listeners)
    }
}

fn joined<'k>(
    tcp: &'k [(IpAddr, u16)],
    udp: &'k [(IpAddr, u16)],
) -> impl Iterator<Item = ListenerKey> + 'k {
    let of = |transport| move |(address, port): &(IpAddr, u16)| (*address, *port, transport);
    tcp.iter().map(of(Transport::Tcp)).chain(udp.iter().map(of(Transport::Udp)))
}

/// Returns the address and port of the keys of one transport protocol.
pub(crate) fn keys_of(
    transport: Transport,
    keys: impl Iterator<Item = ListenerKey>,
) -> Vec<(IpAddr, u16)> {
    let of = keys.filter(|(_, _, other)| *other == transport);
    of.map(|(address, port, _)| (address, port)).collect()
}

/// Document that supplies parts which are broken in a later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EarlierState {
    /// Position among the texts.
    pub(crate) document: usize,
    /// The listeners that are served as it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listeners: Vec<(IpAddr, u16)>,
    /// Those for datagrams.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "udpListeners")]
    pub(crate) udp_listeners: Vec<(IpAddr, u16)>,
    /// True if it lacks more than listeners.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) leans: bool,
}

/// An address that a tenant holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddressState {
    pub(crate) address: IpAddr,
    pub(crate) role: RoleState,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shared: bool,
    /// True if only objects that add to the tenant ask for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) added: bool,
}

/// The part an address plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleState {
    Ingress,
    Egress,
    Mapped,
    Listen,
}

/// Claims that an object holds which adds to a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartState {
    pub(crate) tenant: String,
    /// The kind of its documents; a mapping where nothing is written.
    #[serde(default = "mapping", skip_serializing_if = "is_mapping")]
    pub(crate) kind: Kind,
    /// The namespace that it lives in, if it is an object of a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) name: String,
    pub(crate) file: Arc<str>,
    pub(crate) seniority: u64,
    /// Identifier of the object, which no other ever had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) good: Option<usize>,
    /// SHA-256 in hexadecimal of what its file said last, if that is another text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<Arc<str>>,
}

fn mapping() -> Kind {
    Kind::PortMapping
}

fn is_mapping(kind: &Kind) -> bool {
    *kind == Kind::PortMapping
}

/// Reason why bytes are not a state.
#[derive(Debug, Error)]
pub enum StateFault {
    /// The bytes are not JSON of this form.
    #[error("the state is damaged: {0}")]
    Damaged(#[from] serde_json::Error),
    /// A Durward of another version wrote the state.
    #[error("the state has version {version}, and this Durward reads version {VERSION}")]
    Version {
        /// The version written.
        version: u32,
    },
}

impl State {
    /// Reads a state from JSON.
    ///
    /// # Errors
    /// When the bytes are damaged, or of another version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StateFault> {
        let state: Self = serde_json::from_slice(bytes)?;
        if state.version == VERSION {
            Ok(state)
        } else {
            Err(StateFault::Version { version: state.version })
        }
    }

    /// Returns the state as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the tenants whose documents were left out because there were too many bytes of them.
    #[must_use]
    pub fn left_out(&self) -> &BTreeSet<String> {
        &self.left_out
    }

    /// Returns the claims alone, without the last good documents.
    #[must_use]
    pub fn without_documents(mut self) -> Self {
        self.keep_documents(&BTreeSet::new());
        self
    }

    /// Leaves out the documents of all tenants but `kept`.
    fn keep_documents(&mut self, kept: &BTreeSet<String>) {
        let mut moved: HashMap<usize, usize> = HashMap::new();
        let mut moved_to = |at: usize| {
            let next = moved.len();
            *moved.entry(at).or_insert(next)
        };
        let mut place = |tenant: &String, good: &mut Option<usize>| {
            if !kept.contains(tenant) {
                return good.take().is_some().then(|| tenant.clone());
            }
            *good = good.map(&mut moved_to);
            None
        };
        for tenant in &mut self.tenants {
            self.left_out.extend(place(&tenant.name, &mut tenant.good));
            if tenant.good.is_none() {
                tenant.earlier.clear();
            }
            for earlier in &mut tenant.earlier {
                let mut document = Some(earlier.document);
                place(&tenant.name, &mut document);
                earlier.document = document.unwrap_or_default();
            }
        }
        for part in self.mappings.iter_mut().chain(&mut self.contributions) {
            self.left_out.extend(place(&part.tenant, &mut part.good));
        }
        let texts = std::mem::take(&mut self.texts).into_iter().enumerate();
        let mut texts: Vec<(usize, Text)> =
            texts.filter_map(|(at, text)| Some((*moved.get(&at)?, text))).collect();
        texts.sort_by_key(|(at, _)| *at);
        self.texts = texts.into_iter().map(|(_, text)| text).collect();
    }

    /// Returns the tenants whose documents have `budget` bytes together, the smallest first.
    fn fitting(&self, budget: usize) -> BTreeSet<String> {
        let mut of_tenants: BTreeMap<&String, BTreeSet<usize>> = BTreeMap::new();
        let tenants = self.tenants.iter().flat_map(|tenant| {
            let earlier = tenant.earlier.iter().map(|earlier| Some(earlier.document));
            earlier.chain([tenant.good]).map(|at| (&tenant.name, at))
        });
        let parts = self.mappings.iter().chain(&self.contributions);
        let parts = parts.map(|part| (&part.tenant, part.good));
        for (tenant, good) in tenants.chain(parts) {
            of_tenants.entry(tenant).or_default().extend(good);
        }
        let sizes: Vec<usize> = self.texts.iter().map(Text::written).collect();
        let mut users = vec![0; sizes.len()];
        of_tenants.values().flatten().for_each(|at| users[*at] += 1);
        // A text of many tenants is a part of each.
        let share = |texts: &BTreeSet<usize>| texts.iter().map(|at| sizes[*at] / users[*at]).sum();
        let mut smallest: Vec<(usize, &String, &BTreeSet<usize>)> =
            of_tenants.iter().map(|(tenant, texts)| (share(texts), *tenant, texts)).collect();
        smallest.sort();
        let (mut fitting, mut kept, mut left) = (BTreeSet::new(), BTreeSet::new(), budget);
        for (_, tenant, texts) in smallest {
            let more = texts.difference(&kept).map(|at| sizes[*at]).sum();
            let Some(rest) = left.checked_sub(more) else { continue };
            left = rest;
            kept.extend(texts);
            fitting.insert(tenant.clone());
        }
        fitting
    }
}

impl Text {
    /// Returns about how many bytes it takes in JSON, where a character may become six.
    fn written(&self) -> usize {
        let byte = |byte: u8| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
            ..0x20 => 6,
            _ => 1,
        };
        let all = self.file.bytes().chain(self.text.bytes());
        all.map(byte).sum()
    }
}

/// File, first line, text and object of a document.
type TextKey = (Arc<str>, u32, Arc<str>, Option<ResourceId>);

/// A state while it is written.
pub(crate) struct Writer {
    state: State,
    known: HashMap<TextKey, usize>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        let state = State { version: VERSION, ..State::default() };
        Self { state, known: HashMap::new() }
    }

    /// Returns the position of a document's text among the texts.
    pub(crate) fn text(&mut self, source: &Source) -> usize {
        let Source { file, first_line, text, object, .. } = source;
        let first_line = *first_line;
        let key = (Arc::clone(file), first_line, Arc::clone(text), object.clone());
        let next = self.state.texts.len();
        let at = *self.known.entry(key).or_insert(next);
        if at == next {
            let (file, text) = (Arc::clone(file), Arc::clone(text));
            self.state.texts.push(Text { file, first_line, text, object: object.clone() });
        }
        at
    }

    pub(crate) fn tenant(&mut self, tenant: TenantState) {
        self.state.tenants.push(tenant);
    }

    pub(crate) fn part(&mut self, part: PartState) {
        let is_mapping = part.kind == Kind::PortMapping;
        let State { mappings, contributions, .. } = &mut self.state;
        if is_mapping { mappings.push(part) } else { contributions.push(part) }
    }

    pub(crate) fn finish(self) -> State {
        self.within(MOST_TEXT)
    }

    fn within(mut self, budget: usize) -> State {
        if self.state.texts.iter().map(Text::written).sum::<usize>() > budget {
            let fitting = self.state.fitting(budget);
            self.state.keep_documents(&fitting);
        }
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(texts: &[(&str, &str)]) -> Writer {
        let mut writer = Writer::new();
        for (tenant, text) in texts {
            let file: Arc<str> = Arc::from("f");
            let (source_file, text) = (Arc::clone(&file), Arc::from(*text));
            let source = Source { file: source_file, first_line: 1, text, ..Source::default() };
            let good = Some(writer.text(&source));
            let (name, addresses, keys) = ((*tenant).to_owned(), Vec::new(), Vec::new());
            let (listeners, egress, sources) = (Vec::new(), Vec::new(), Vec::new());
            let (seniority, created, text, upstreams) = (1, None, None, None);
            let (earlier, leans) = (Vec::new(), false);
            writer.tenant(TenantState {
                name,
                file,
                seniority,
                uid: None,
                created,
                good,
                earlier,
                leans,
                text,
                upstreams,
                upstream_sources: Vec::new(),
                listeners,
                udp_listeners: Vec::new(),
                names: Vec::new(),
                addresses,
                egress,
                sources,
                added_sources: Vec::new(),
                added_listeners: Vec::new(),
                keys,
            });
        }
        writer
    }

    #[test]
    fn the_documents_of_the_largest_tenant_are_left_out_first() {
        let large = "x".repeat(90);
        let state = writer(&[("a", &large), ("b", "bb"), ("c", "bb"), ("d", "d")]).within(80);

        assert_eq!(state.left_out().iter().collect::<Vec<_>>(), ["a"]);
        let texts: Vec<_> = state.texts.iter().map(|text| &*text.text).collect();
        let of = |at: usize| state.tenants[at].good.map(|at| texts[at]);
        assert_eq!([of(0), of(1), of(2), of(3)], [None, Some("bb"), Some("bb"), Some("d")]);
        assert_eq!(state.texts.len(), 2);
        assert_eq!(State::from_json(&state.to_json()).unwrap().tenants, state.tenants);

        let claims = state.without_documents();
        assert_eq!((claims.texts.len(), claims.tenants.len()), (0, 4));
    }

    #[test]
    fn the_budget_counts_bytes_as_they_are_written() {
        let state = writer(&[("a", &"\u{1}".repeat(20)), ("b", "b")]).within(80);

        assert_eq!(state.left_out().iter().collect::<Vec<_>>(), ["a"]);
        let text =
            |text: &str| Text { file: "".into(), first_line: 1, text: text.into(), object: None };
        for each in ["\u{1}", "\"", "\\", "\n", "ä", "\u{1f}"] {
            let json = serde_json::to_string(each).unwrap();
            assert_eq!(text(each).written(), json.len() - 2, "{each:?}");
        }
    }
}
