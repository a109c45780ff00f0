//! Digests of content in keys, so that a key made for one content never finds another's element, whatever the generation.
//!
//! Equal content has an equal digest on every gateway and after every restart.

use ipnet::IpNet;

use super::step::Ip;

/// Digest of some content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(u64);

impl Digest {
    /// Bytes of a digest in a key.
    pub(crate) const LEN: u32 = 8;
    /// Registers that a digest takes.
    pub(crate) const WORDS: u32 = 2;

    /// Computes the digest by FNV-1a: stable, which `std`'s hashers do not promise.
    pub(crate) fn of(content: &str) -> Self {
        Self(content.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    /// Returns the next digest to try after a collision.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    pub(crate) const fn bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// List of sources; the list of all sources has digest 0 and no set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct List(Digest);

impl List {
    /// List that contains every source.
    pub(crate) const EVERYBODY: Self = Self(Digest(0));

    /// Returns the list of these blocks, before collisions are resolved.
    pub(crate) fn of(blocks: &[IpNet]) -> Self {
        let text: String = blocks.iter().map(|block| format!("{block} ")).collect();
        Self(Digest::of(&text)).or_next()
    }

    /// Returns the next list to try after a collision.
    pub(crate) fn next(self) -> Self {
        Self(self.0.next()).or_next()
    }

    fn or_next(self) -> Self {
        if self == Self::EVERYBODY { Self(self.0.next()) } else { self }
    }

    pub(crate) const fn digest(self) -> Digest {
        self.0
    }

    /// Returns the name of the set with the list's blocks.
    pub(crate) fn set(self, ip: Ip) -> String {
        format!("src{}_{:016x}", ip.digit(), self.0.0)
    }

    /// Returns the name of a chain for this list.
    pub(crate) fn chain(self, kind: &str, ip: Ip) -> String {
        match self {
            Self::EVERYBODY => format!("{kind}{}_any", ip.digit()),
            Self(digest) => format!("{kind}{}_{:016x}", ip.digit(), digest.0),
        }
    }
}
