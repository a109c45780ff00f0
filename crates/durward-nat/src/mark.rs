//! The connection mark: tenant, interface slot, and flags.
//!
//! Bits 31–16 hold the tenant's number, 15–8 the interface's slot, 7–0 flags. The packet mark is another one: it carries the slot only, in a field
//! that the options name.

/// Source NAT: the endpoint sees the gateway's address, not the client's.
pub(crate) const SNAT: u32 = 1;
/// Connection to a mapping.
pub(crate) const MAPPED: u32 = 2;
/// Connection from an egress address.
pub(crate) const EGRESS: u32 = 4;
/// Connection picked up from another gateway: its first packet seen here was an answer.
pub(crate) const PICKED_UP: u32 = 8;

/// Connection handed to this host's forward proxy.
pub(crate) const TRANSPARENT: u32 = 16;

/// Connection of a tenant with transparent egress: the destination port decides whether the proxy takes it.
pub(crate) const ASKED: u32 = 32;

/// Connection of a tenant that refuses what the proxy does not take.
pub(crate) const WITHHELD: u32 = 64;

/// Slot of no interface: packets for the forward proxy, which stay on this host.
pub(crate) const OWN_SLOT: u8 = 255;

/// Slot of packets from enrolled networks that may take the host's own routes: answers of connections begun elsewhere.
pub(crate) const ANSWER_SLOT: u8 = 254;

pub(crate) const SLOT_MASK: u32 = 0xff00;
pub(crate) const TENANT_MASK: u32 = 0xffff_0000;

/// Builds a mark.
pub(crate) const fn mark(tenant: u16, slot: u8, flags: u32) -> u32 {
    (tenant as u32) << 16 | (slot as u32) << 8 | flags
}

/// Returns the slot's bits of a mark.
pub(crate) const fn slot_bits(slot: u8) -> u32 {
    (slot as u32) << 8
}

/// Returns the tenant's number in a mark.
pub(crate) const fn tenant(mark: u32) -> u16 {
    (mark >> 16) as u16
}

/// Returns true if a connection's mark is one of Durward's.
pub(crate) const fn is_ours(mark: u32) -> bool {
    mark & (MAPPED | EGRESS | TRANSPARENT) != 0 && tenant(mark) != 0
}
