//! A pass over MessagePack bytes that looks at markers and lengths only.
//!
//! It runs before anything is decoded, does not recurse and does not allocate, so that what a peer
//! sends is known to be whole, shallow and small in count before a decoder sees it.

use crate::{
    error::ProtoError,
    limits::{MAX_ELEMENTS, MAX_NESTING_DEPTH},
};

/// What [`validate`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the value in bytes.
    pub len: usize,
    /// Values in it, itself and map keys included.
    pub elements: usize,
}

/// Checks that `bytes` begin with one whole MessagePack value within the limits.
pub fn validate(bytes: &[u8]) -> Result<Summary, ProtoError> {
    let mut scanner = Scanner::new(bytes);
    scanner.skip()?;
    Ok(Summary {
        len: scanner.pos,
        elements: scanner.elements,
    })
}

/// A cursor over MessagePack bytes.
#[derive(Debug, Clone)]
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    pos: usize,
    elements: usize,
}

/// What a marker says about the bytes behind it.
enum Shape {
    /// This many bytes of content.
    Flat(usize),
    /// This many values.
    Nested(usize),
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            pos: 0,
            elements: 0,
        }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.pos).copied()
    }

    /// Ends the reading, refusing leftovers.
    pub(crate) fn finish(self) -> Result<(), ProtoError> {
        match self.bytes.len() - self.pos {
            0 => Ok(()),
            left => Err(ProtoError::TrailingBytes(left)),
        }
    }

    /// Steps over one value.
    pub(crate) fn skip(&mut self) -> Result<(), ProtoError> {
        // Values still to come at each open level; the array bounds the depth by construction.
        let mut open = [0usize; MAX_NESTING_DEPTH];
        let mut depth = 0;
        loop {
            match self.shape()? {
                Shape::Flat(len) => {
                    self.take("value", len)?;
                }
                Shape::Nested(0) => {}
                Shape::Nested(count) => {
                    // Each value takes a byte at least: refuses a huge count at once.
                    if count > self.bytes.len() - self.pos {
                        return Err(ProtoError::Truncated {
                            what: "array or map",
                            have: (self.bytes.len() - self.pos) as u64,
                            need: count as u64,
                        });
                    }
                    *open.get_mut(depth).ok_or(ProtoError::TooDeep)? = count;
                    depth += 1;
                    continue;
                }
            }
            loop {
                let Some(level) = depth.checked_sub(1) else {
                    return Ok(());
                };
                open[level] -= 1;
                if open[level] > 0 {
                    break;
                }
                depth = level;
            }
        }
    }

    /// Reads the head of an array and returns its length, or `None` where no array stands.
    pub(crate) fn array(&mut self) -> Result<Option<usize>, ProtoError> {
        Ok(match self.peek() {
            Some(m @ 0x90..=0x9f) => self.small(usize::from(m & 0x0f)),
            Some(0xdc) => self.wide(2)?,
            Some(0xdd) => self.wide(4)?,
            _ => None,
        })
    }

    /// Reads the head of a map and returns its number of entries, or `None` where no map stands.
    pub(crate) fn map(&mut self) -> Result<Option<usize>, ProtoError> {
        Ok(match self.peek() {
            Some(m @ 0x80..=0x8f) => self.small(usize::from(m & 0x0f)),
            Some(0xde) => self.wide(2)?,
            Some(0xdf) => self.wide(4)?,
            _ => None,
        })
    }

    /// Reads a string's bytes, or `None` where no string stands.
    pub(crate) fn str_bytes(&mut self) -> Result<Option<&'a [u8]>, ProtoError> {
        let len = match self.peek() {
            Some(m @ 0xa0..=0xbf) => self.small(usize::from(m & 0x1f)),
            Some(0xd9) => self.wide(1)?,
            Some(0xda) => self.wide(2)?,
            Some(0xdb) => self.wide(4)?,
            _ => None,
        };
        len.map(|len| self.take("string", len)).transpose()
    }

    /// Reads binary data, or `None` where none stands.
    pub(crate) fn bin(&mut self) -> Result<Option<&'a [u8]>, ProtoError> {
        let len = self.bin_len()?;
        len.map(|len| self.take("binary", len)).transpose()
    }

    /// Reads the head of binary data and returns its length, or `None` where none stands.
    pub(crate) fn bin_len(&mut self) -> Result<Option<usize>, ProtoError> {
        match self.peek() {
            Some(0xc4) => self.wide(1),
            Some(0xc5) => self.wide(2),
            Some(0xc6) => self.wide(4),
            _ => Ok(None),
        }
    }

    /// Reads an integer that fits `u64`, or `None` where none stands.
    pub(crate) fn uint(&mut self) -> Result<Option<u64>, ProtoError> {
        let Some(marker) = self.peek() else {
            return Ok(None);
        };
        let (width, signed) = match marker {
            0x00..=0x7f => {
                self.pos += 1;
                return Ok(Some(u64::from(marker)));
            }
            0xcc => (1, false),
            0xcd => (2, false),
            0xce => (4, false),
            0xcf => (8, false),
            0xd0 => (1, true),
            0xd1 => (2, true),
            0xd2 => (4, true),
            0xd3 => (8, true),
            _ => return Ok(None),
        };
        self.pos += 1;
        let bytes = self.take("integer", width)?;
        if signed && bytes[0] & 0x80 != 0 {
            return Ok(None);
        }
        Ok(Some(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))))
    }

    /// Reads a boolean, or `None` where none stands.
    pub(crate) fn bool(&mut self) -> Option<bool> {
        let value = match self.peek()? {
            0xc2 => false,
            0xc3 => true,
            _ => return None,
        };
        self.pos += 1;
        Some(value)
    }

    /// Steps over nil and says whether it stood there.
    pub(crate) fn nil(&mut self) -> bool {
        let is_nil = self.peek() == Some(0xc0);
        self.pos += usize::from(is_nil);
        is_nil
    }

    fn small(&mut self, len: usize) -> Option<usize> {
        self.pos += 1;
        Some(len)
    }

    fn wide(&mut self, width: usize) -> Result<Option<usize>, ProtoError> {
        self.pos += 1;
        self.length(width).map(Some)
    }

    fn length(&mut self, width: usize) -> Result<usize, ProtoError> {
        let bytes = self.take("length", width)?;
        Ok(bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], ProtoError> {
        let rest = &self.bytes[self.pos..];
        let taken = rest.get(..len).ok_or(ProtoError::Truncated {
            what,
            have: rest.len() as u64,
            need: len as u64,
        })?;
        self.pos += len;
        Ok(taken)
    }

    /// Reads a marker and the length behind it.
    fn shape(&mut self) -> Result<Shape, ProtoError> {
        self.elements += 1;
        if self.elements > MAX_ELEMENTS {
            return Err(ProtoError::TooManyElements);
        }
        let offset = self.pos;
        let marker = self.take("value", 1)?[0];
        Ok(match marker {
            0x00..=0x7f | 0xe0..=0xff | 0xc0 | 0xc2 | 0xc3 => Shape::Flat(0),
            0x80..=0x8f => Shape::Nested(usize::from(marker & 0x0f) * 2),
            0x90..=0x9f => Shape::Nested(usize::from(marker & 0x0f)),
            0xa0..=0xbf => Shape::Flat(usize::from(marker & 0x1f)),
            0xc1 => return Err(ProtoError::InvalidMarker { marker, offset }),
            0xc4 | 0xd9 => Shape::Flat(self.length(1)?),
            0xc5 | 0xda => Shape::Flat(self.length(2)?),
            0xc6 | 0xdb => Shape::Flat(self.length(4)?),
            0xc7 => Shape::Flat(self.length(1)? + 1),
            0xc8 => Shape::Flat(self.length(2)? + 1),
            0xc9 => Shape::Flat(self.length(4)?.saturating_add(1)),
            0xcc | 0xd0 => Shape::Flat(1),
            0xcd | 0xd1 => Shape::Flat(2),
            0xce | 0xd2 | 0xca => Shape::Flat(4),
            0xcf | 0xd3 | 0xcb => Shape::Flat(8),
            0xd4 => Shape::Flat(2),
            0xd5 => Shape::Flat(3),
            0xd6 => Shape::Flat(5),
            0xd7 => Shape::Flat(9),
            0xd8 => Shape::Flat(17),
            0xdc => Shape::Nested(self.length(2)?),
            0xdd => Shape::Nested(self.length(4)?),
            0xde => Shape::Nested(self.length(2)? * 2),
            0xdf => Shape::Nested(self.length(4)?.saturating_mul(2)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(levels: usize) -> Vec<u8> {
        let mut bytes = vec![0x91; levels];
        bytes.push(0xc0);
        bytes
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(
            validate(&nested(MAX_NESTING_DEPTH)).unwrap().len,
            MAX_NESTING_DEPTH + 1
        );
        assert_eq!(
            validate(&nested(MAX_NESTING_DEPTH + 1)),
            Err(ProtoError::TooDeep)
        );
        assert_eq!(validate(&nested(1_000_000)), Err(ProtoError::TooDeep));
    }

    #[test]
    fn count_is_bounded() {
        let mut bytes = vec![0xdd];
        bytes.extend((MAX_ELEMENTS as u32).to_be_bytes());
        bytes.resize(5 + MAX_ELEMENTS, 0xc0);
        assert_eq!(validate(&bytes), Err(ProtoError::TooManyElements));
    }

    #[test]
    fn huge_declared_lengths_are_cut_short() {
        for marker in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
            let bytes = [marker, 0xff, 0xff, 0xff, 0xff, 0, 0, 0];
            assert!(
                matches!(validate(&bytes), Err(ProtoError::Truncated { .. })),
                "{marker:x}"
            );
        }
    }

    #[test]
    fn reserved_marker_is_named_with_its_place() {
        assert_eq!(
            validate(&[0x92, 0xc0, 0xc1]),
            Err(ProtoError::InvalidMarker {
                marker: 0xc1,
                offset: 2
            })
        );
    }

    #[test]
    fn empty_input_is_cut_short() {
        assert!(matches!(
            validate(&[]),
            Err(ProtoError::Truncated {
                have: 0,
                need: 1,
                ..
            })
        ));
    }

    proptest! {
        /// The scanner takes exactly what the reference decoder takes.
        #[test]
        fn agrees_with_the_reference_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            let reference = rmpv::decode::read_value_with_max_depth(&mut rest, MAX_NESTING_DEPTH * 2 + 3);
            match (validate(&bytes), reference) {
                (Ok(summary), Ok(_)) => prop_assert_eq!(summary.len, bytes.len() - rest.len()),
                (Err(_), Err(_)) => {}
                // The reference reads the reserved marker as nil.
                (Err(ProtoError::InvalidMarker { .. }), Ok(_)) => {}
                (Err(ProtoError::TooDeep), Ok(_)) => {}
                (ours, theirs) => prop_assert!(false, "{ours:?} but the reference says {theirs:?}"),
            }
        }
    }
}
