//! Numbers of `linux/netfilter/nf_tables.h`, under their names there as far as Rust allows.

/// Message types; the subsystem number is in the high byte.
pub(super) mod msg {
    const fn nftables(number: u16) -> u16 {
        10 << 8 | number
    }
    pub(in super::super) const BATCH_BEGIN: u16 = 0x10;
    pub(in super::super) const BATCH_END: u16 = 0x11;
    pub(in super::super) const NEWTABLE: u16 = nftables(0);
    pub(in super::super) const GETTABLE: u16 = nftables(1);
    pub(in super::super) const DELTABLE: u16 = nftables(2);
    pub(in super::super) const NEWCHAIN: u16 = nftables(3);
    pub(in super::super) const GETCHAIN: u16 = nftables(4);
    pub(in super::super) const DELCHAIN: u16 = nftables(5);
    pub(in super::super) const NEWRULE: u16 = nftables(6);
    pub(in super::super) const GETRULE: u16 = nftables(7);
    pub(in super::super) const DELRULE: u16 = nftables(8);
    pub(in super::super) const NEWSET: u16 = nftables(9);
    pub(in super::super) const GETSET: u16 = nftables(10);
    pub(in super::super) const DELSET: u16 = nftables(11);
    pub(in super::super) const NEWSETELEM: u16 = nftables(12);
    pub(in super::super) const GETSETELEM: u16 = nftables(13);
    pub(in super::super) const DELSETELEM: u16 = nftables(14);
    pub(in super::super) const NEWGEN: u16 = nftables(15);
    pub(in super::super) const GETGEN: u16 = nftables(16);
    pub(in super::super) const TRACE: u16 = nftables(17);
    pub(in super::super) const NEWOBJ: u16 = nftables(18);
    pub(in super::super) const GETOBJ: u16 = nftables(19);
    pub(in super::super) const DELOBJ: u16 = nftables(20);
}

/// Multicast group of changes, as a bit of the bind mask (`NFNLGRP_NFTABLES` is 7).
pub(crate) const GROUP: u32 = 1 << 6;
/// `NFNL_BATCH_GENID`.
pub(super) const BATCH_GENERATION: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
pub(super) const INET: u8 = 1;
/// Size of `nfgenmsg` in bytes.
pub(super) const HEADER: usize = 4;

/// Flags of a table.
pub(super) mod table_flag {
    pub(in super::super) const OWNER: u32 = 2;
    pub(in super::super) const PERSIST: u32 = 4;
}

/// Flags of a set.
pub(super) mod set_flag {
    pub(in super::super) const INTERVAL: u32 = 4;
    pub(in super::super) const MAP: u32 = 8;
    pub(in super::super) const OBJECT: u32 = 0x40;
}

/// Results and flags of `fib` expressions (route lookups).
pub(super) mod fib {
    /// `NFT_FIB_RESULT_ADDRTYPE`.
    pub(in super::super) const ADDRESS_TYPE: u32 = 3;
    /// `NFTA_FIB_F_DADDR`.
    pub(in super::super) const DESTINATION: u32 = 2;
}

/// Data type of a verdict map (`NFT_DATA_VERDICT`).
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// `NFT_OBJECT_COUNTER`.
pub(super) const OBJECT_COUNTER: u32 = 1;
/// `NFT_SET_ELEM_INTERVAL_END`.
pub(super) const INTERVAL_END: u32 = 1;
