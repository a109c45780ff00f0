//! Links without a wire, as `linux/if_link.h` defines them: dummy links, and bridges without ports where the kernel has no dummy links. What is sent to their addresses from this
//! host stays on it, and nothing arrives by them.

use rustix::io::Errno;

use super::{Rtnetlink, gone, msg};
use crate::netlink::{Message, flags};

/// Attributes of a link and of its kind.
const NAME: u16 = 3;
const LINK_INFO: u16 = 18;
const MAC: u16 = 1;
/// Hardware address of links that are made here: a locally administered one that no other program assigns.
const OURS: [u8; 6] = *b"\x02durwd";
const KIND: u16 = 1;

/// A link of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedLink {
    pub(crate) index: u32,
    /// `dummy`, `vxlan`, …; `None` for hardware.
    pub(crate) kind: Option<String>,
    /// True if Durward created the link.
    pub(crate) ours: bool,
}

impl Rtnetlink {
    /// Returns the link of this name.
    pub(crate) fn link_named(&self, name: &str) -> Result<Option<NamedLink>, Errno> {
        let links = self.dump(msg::GETLINK, 0, 16)?;
        Ok(links.iter().find_map(|link| named(link, name)))
    }

    /// Makes a link of this kind and brings it up.
    pub(crate) fn add_link(&self, name: &str, kind: &str) -> Result<(), Errno> {
        self.socket.request(msg::NEWLINK, flags::CREATE | flags::EXCL, |to| {
            super::tunnel::link_header(to, 0);
            to.text(NAME, name).bytes_attribute(MAC, &OURS).nest(LINK_INFO, |to| {
                to.text(KIND, kind);
            });
        })
    }

    /// Brings a link up.
    pub(crate) fn set_up(&self, index: u32) -> Result<(), Errno> {
        self.socket.request(msg::NEWLINK, 0, |to| super::tunnel::link_header(to, index))
    }

    /// Removes a link; one that is gone is no error.
    pub(crate) fn remove_link(&self, index: u32) -> Result<(), Errno> {
        gone(self.socket.request(msg::DELLINK, 0, |to| super::tunnel::link_header(to, index)))
    }
}

fn named(message: &Message, name: &str) -> Option<NamedLink> {
    let attributes = message.attributes(16);
    if attributes.text(NAME)? != name {
        return None;
    }
    let index = u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?);
    let kind = attributes.nested(LINK_INFO).text(KIND);
    let ours = attributes.get(MAC).is_some_and(|mac| mac.value == OURS);
    Some(NamedLink { index, kind, ours })
}
