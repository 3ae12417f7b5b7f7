//! Netlink attributes: length, kind, value, padded to four bytes. Numbers are in network order.

/// Says that a value is itself a list of attributes.
const NESTED: u16 = 1 << 15;
const KIND: u16 = 0x3fff;
const HEADER_BYTES: usize = 4;

/// Attributes that are being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(HEADER_BYTES + value.len());
        let length = length.expect("lists are sent in parts that fit an attribute");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes of a message, kind and value.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1, ..] = rest else { return None };
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let kind = u16::from_ne_bytes([*k0, *k1]) & KIND;
        let value = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value at a path of nested attributes.
pub fn find<'a>(bytes: &'a [u8], path: &[u16]) -> Option<&'a [u8]> {
    path.iter()
        .try_fold(bytes, |bytes, wanted| read(bytes).find(|(kind, _)| kind == wanted).map(|(_, value)| value))
}

/// The members of a list at a path.
pub fn list<'a>(bytes: &'a [u8], path: &[u16]) -> impl Iterator<Item = &'a [u8]> {
    read(find(bytes, path).unwrap_or_default()).map(|(_, value)| value)
}

/// The number at a path.
pub fn number(bytes: &[u8], path: &[u16]) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, path)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Attributes::default().text(1, "abc").be32(2, 7);
        let outer = Attributes::default().bytes(5, &[9]).nest(6, &inner);
        assert_eq!(find(outer.as_bytes(), &[6, 1]), Some(&b"abc\0"[..]));
        assert_eq!(number(outer.as_bytes(), &[6, 2]), Some(7));
        assert_eq!(find(outer.as_bytes(), &[5]), Some(&[9][..]));
        assert_eq!(list(outer.as_bytes(), &[6]).count(), 2);
        assert_eq!(number(outer.as_bytes(), &[6, 3]), None);
        assert_eq!(read(&outer.as_bytes()[..4]).count(), 0, "cut off");
    }
}
