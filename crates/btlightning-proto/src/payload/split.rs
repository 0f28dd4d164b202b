//! A map whose one large binary value lies apart from the rest.

use std::{collections::HashMap, sync::OnceLock};

use bytes::Bytes;
use rmp::encode;
use rmpv::Value;

use super::{read_tree, write_entry, write_map_head};
use crate::{error::ProtoError, limits::MAX_NESTING_DEPTH, msgpack::Scanner};

/// A MessagePack map in three pieces; the middle one is the content of a top-level binary value.
#[derive(Clone)]
pub(crate) struct Split {
    /// Up to the head of the large value, that head included.
    before: Bytes,
    content: Bytes,
    after: Bytes,
    /// All of it, once somebody wanted to read it as one.
    whole: OnceLock<Bytes>,
}

impl Split {
    pub(crate) fn new(before: Bytes, content: Bytes, after: Bytes) -> Self {
        Self {
            before,
            content,
            after,
            whole: OnceLock::new(),
        }
    }

    /// Encodes a map around its largest binary value; gives it back when none is large enough.
    #[allow(clippy::type_complexity)]
    pub(super) fn from_values(
        mut map: HashMap<String, Value>,
    ) -> Result<Result<Self, HashMap<String, Value>>, ProtoError> {
        let largest = map
            .iter()
            .filter_map(|(key, value)| match value {
                Value::Binary(content) => Some((key, content.len())),
                _ => None,
            })
            .max_by_key(|(_, len)| *len)
            .filter(|(_, len)| *len >= MIN_APART)
            .map(|(key, _)| key.clone());
        let Some(key) = largest else {
            return Ok(Err(map));
        };
        let Some(Value::Binary(content)) = map.remove(&key) else {
            return Ok(Err(map));
        };
        let mut before = Vec::with_capacity(64 + map.len() * 64);
        write_map_head(&mut before, map.len() + 1)?;
        for (key, value) in &map {
            write_entry(&mut before, key, value)?;
        }
        let fail = |e: &dyn std::fmt::Display| ProtoError::Serialize(e.to_string());
        encode::write_str(&mut before, &key).map_err(|e| fail(&e))?;
        let len = u32::try_from(content.len()).map_err(|e| fail(&e))?;
        encode::write_bin_len(&mut before, len).map_err(|e| fail(&e))?;
        super::check_with_hole(&before)?;
        Ok(Ok(Self::new(before.into(), content.into(), Bytes::new())))
    }

    pub(super) fn into_values(self) -> Result<HashMap<String, Value>, ProtoError> {
        let mut scanner = Scanner::new(&self.before);
        let entries = scanner.map()?.unwrap_or(0);
        let mut map = HashMap::with_capacity(entries.min(1024));
        let mut content = Some(self.content);
        let mut rest: &[u8] = &self.before;
        for _ in 0..entries {
            let key = read_key(&mut scanner)?;
            let start = scanner.pos();
            let value = if content.is_some() && is_hole(&rest[start..]) {
                rest = &self.after;
                scanner = Scanner::new(rest);
                Value::Binary(content.take().map(Vec::from).unwrap_or_default())
            } else {
                scanner.skip()?;
                read_tree(&rest[start..scanner.pos()], MAX_NESTING_DEPTH)?
            };
            map.insert(key, value);
        }
        Ok(map)
    }

    pub(super) fn whole(&self) -> &Bytes {
        self.whole
            .get_or_init(|| self.pieces().map(|piece| &piece[..]).concat().into())
    }

    pub(super) fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }

    pub(super) fn pieces(&self) -> [&Bytes; 3] {
        [&self.before, &self.content, &self.after]
    }
}

/// Whether `bytes` are the head of a binary value and nothing else.
pub(super) fn is_hole(bytes: &[u8]) -> bool {
    matches!(bytes, [0xc5, _, _] | [0xc6, _, _, _, _])
}

fn read_key(scanner: &mut Scanner<'_>) -> Result<String, ProtoError> {
    const KEYS: ProtoError = ProtoError::Field {
        field: "data",
        expected: "string keys",
    };
    let key = scanner.str_bytes()?.ok_or(KEYS)?;
    std::str::from_utf8(key)
        .map(str::to_owned)
        .map_err(|_| KEYS)
}

/// Binary values from this length on are kept apart: below, three pieces cost more than a copy.
pub(crate) const MIN_APART: usize = 32 * 1024;
