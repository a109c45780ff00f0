//! Just enough DER to take apart what was encoded here, and to put it together again.
//! It is no parser for foreign input.

/// One element as it stands, and what is in it.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) whole: &'a [u8],
    pub(super) content: &'a [u8],
}

/// Splits the first element off; nothing when the bytes are cut.
pub(super) fn element(der: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        (octets.iter().fold(0, |length, &octet| length << 8 | usize::from(octet)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    let whole = &der[..der.len() - rest.len()];
    Some((Element { tag, whole, content }, rest))
}

/// All elements of a constructed element's content; nothing when the bytes are cut.
pub(super) fn elements(mut content: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    while !content.is_empty() {
        let (first, rest) = element(content)?;
        all.push(first);
        content = rest;
    }
    Some(all)
}

/// Encodes one element.
pub(super) fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    if content.len() < 0x80 {
        der.push(content.len() as u8);
    } else {
        let octets = content.len().to_be_bytes();
        let significant = &octets[octets.len() - (content.len().ilog2() / 8 + 1) as usize..];
        der.push(0x80 | significant.len() as u8);
        der.extend(significant);
    }
    der.extend(content);
    der
}
