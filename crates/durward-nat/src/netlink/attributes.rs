//! Encoder and parser of netlink messages and attributes: type, length, value, padded to four bytes.

const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// Longest value that an attribute's 16-bit length can hold.
pub(crate) const LONGEST: usize = u16::MAX as usize - 4;

/// Encoder of messages, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builder {
    buffer: Vec<u8>,
}

impl Builder {
    /// Returns the bytes written so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Writes a message.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.buffer.len();
        self.raw(&[0; 4]);
        self.raw(&kind.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&sequence.to_ne_bytes());
        self.raw(&[0; 4]);
        body(self);
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// Writes bytes that are no attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.buffer.extend_from_slice(bytes);
        self
    }

    /// Writes an attribute.
    pub(crate) fn bytes_attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        debug_assert!(value.len() <= LONGEST, "an attribute's length has 16 bits");
        self.raw(&((value.len() + 4) as u16).to_ne_bytes());
        self.raw(&kind.to_ne_bytes());
        self.raw(value);
        self.pad();
        self
    }

    /// Writes a text with a terminating zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes_attribute(kind, &bytes)
    }

    /// Writes a number in network order, as netfilter expects.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes_attribute(kind, &value.to_be_bytes())
    }

    /// Writes a number in host order, as routing expects.
    pub(crate) fn ne32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes_attribute(kind, &value.to_ne_bytes())
    }

    /// Writes a nested attribute.
    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buffer.len();
        self.raw(&[0; 2]);
        self.raw(&(kind | NESTED).to_ne_bytes());
        body(self);
        let length = self.buffer.len() - start;
        debug_assert!(length <= LONGEST + 4, "an attribute's length has 16 bits");
        self.buffer[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self
    }

    /// Returns the number of bytes written so far.
    pub(crate) const fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Sets flags of the message that begins at `start`.
    pub(crate) fn add_flags(&mut self, start: usize, flags: u16) {
        let at = start + 6;
        let old = u16::from_ne_bytes([self.buffer[at], self.buffer[at + 1]]);
        self.buffer[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    fn pad(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }
}

/// Attributes of a message; a truncated one ends the list.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a> {
    bytes: &'a [u8],
}

/// Attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Returns the first attribute of a kind.
    pub(crate) fn get(self, kind: u16) -> Option<Attribute<'a>> {
        self.into_iter().find(|attribute| attribute.kind == kind)
    }

    pub(crate) fn be32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.value.try_into().ok().map(u32::from_be_bytes)
    }

    pub(crate) fn ne32(self, kind: u16) -> Option<u32> {
        self.get(kind)?.value.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(crate) fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?.value;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    /// Returns the attributes nested in the first attribute of a kind; none if that is absent.
    pub(crate) fn nested(self, kind: u16) -> Self {
        Self::new(self.get(kind).map_or(&[], |attribute| attribute.value))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let head = self.bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = self.bytes.get(4..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut builder = Builder::default();
        builder.text(1, "table").nest(2, |inner| {
            inner.be32(3, 7).ne32(4, 8);
        });

        let read = Attributes::new(builder.bytes());

        assert_eq!(read.text(1).as_deref(), Some("table"));
        assert_eq!(read.nested(2).be32(3), Some(7));
        assert_eq!(read.nested(2).ne32(4), Some(8));
    }

    #[test]
    fn a_cut_off_attribute_ends_the_list() {
        let mut builder = Builder::default();
        builder.be32(1, 7).be32(2, 8);

        let cut = Attributes::new(&builder.bytes()[..13]);

        assert_eq!(cut.count(), 1);
    }
}
