//! The connection mark: whose it is, which interface it belongs to, what was done to it.
//!
//! Bits 31–16 hold the tenant's number, 15–8 the interface's slot, 7–0 flags. Deliberately absent: the packet's mark,
//! which carries the slot only, in a field the options name.

/// The endpoint sees the gateway, not the client.
pub(crate) const SNAT: u32 = 1;
/// It was sent to a mapping.
pub(crate) const MAPPED: u32 = 2;
/// It leaves from an egress address.
pub(crate) const EGRESS: u32 = 4;
/// Its first packet seen here was an answer, after another gateway went away.
pub(crate) const PICKED_UP: u32 = 8;

/// This host's forward proxy has it.
pub(crate) const TRANSPARENT: u32 = 16;

/// Its tenant has transparent egress: the destination's port decides whether the proxy takes it.
pub(crate) const ASKED: u32 = 32;

/// Its tenant refuses what the proxy does not take.
pub(crate) const WITHHELD: u32 = 64;

/// The slot that belongs to no interface: packets for the forward proxy, which stay on this host.
pub(crate) const OWN_SLOT: u8 = 255;

/// The slot of packets from enrolled networks that may take the host's own routes: answers to connections begun elsewhere.
pub(crate) const ANSWER_SLOT: u8 = 254;

pub(crate) const SLOT_MASK: u32 = 0xff00;
pub(crate) const TENANT_MASK: u32 = 0xffff_0000;

/// A mark.
pub(crate) const fn mark(tenant: u16, slot: u8, flags: u32) -> u32 {
    (tenant as u32) << 16 | (slot as u32) << 8 | flags
}

/// The slot's bits of a mark.
pub(crate) const fn slot_bits(slot: u8) -> u32 {
    (slot as u32) << 8
}

/// The tenant's number in a mark.
pub(crate) const fn tenant(mark: u32) -> u16 {
    (mark >> 16) as u16
}

/// Returns whether a connection's mark is one of Durward's.
pub(crate) const fn is_ours(mark: u32) -> bool {
    mark & (MAPPED | EGRESS | TRANSPARENT) != 0 && tenant(mark) != 0
}
