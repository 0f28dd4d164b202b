//! Bytes straight into Python objects.

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use pyo3::{
    IntoPyObject,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyList, PyString},
};

use super::{
    Decode,
    buffer::Buffer,
    fail::{Fail, MAX_LEVELS, Outcome},
    tensor,
};

/// Decodes the pieces of a payload: what stands before the large binary value that is kept apart,
/// its content, and what stands behind it; or nothing, the whole map, and nothing.
///
/// The payload was checked when it came, but nothing here relies on it: a length is believed only
/// as far as there are bytes.
pub(super) fn decode<'py>(
    py: Python<'py>,
    [before, content, after]: [&Bytes; 3],
    options: Decode,
) -> PyResult<Bound<'py, PyDict>> {
    let (piece, apart) = if before.is_empty() {
        (content, None)
    } else {
        (before, Some((content, after)))
    };
    let mut decoder = Decoder {
        py,
        piece,
        at: 0,
        apart,
        options,
        keys: KEYS.try_lock().ok(),
    };
    decoder.top().map_err(|fail| fail.into_error())
}

struct Decoder<'a, 'py> {
    py: Python<'py>,
    piece: &'a Bytes,
    at: usize,
    /// The content whose head ends `piece`, and what follows it.
    apart: Option<(&'a Bytes, &'a Bytes)>,
    options: Decode,
    /// Nothing when another thread, or a call within a call, has them.
    keys: Option<MutexGuard<'static, KeyCache>>,
}

impl<'a, 'py> Decoder<'a, 'py> {
    fn top(&mut self) -> Outcome<Bound<'py, PyDict>> {
        let len = match self.byte()? {
            marker @ 0x80..=0x8f => usize::from(marker & 0x0f),
            0xde => self.length::<2>()?,
            0xdf => self.length::<4>()?,
            _ => return Err(malformed()),
        };
        self.dict(len, MAX_LEVELS + 1)
    }

    fn value(&mut self, levels: usize) -> Outcome<Bound<'py, PyAny>> {
        let py = self.py;
        let marker = self.byte()?;
        match marker {
            0x00..=0x7f => Ok(int(py, i64::from(marker))),
            0xe0..=0xff => Ok(int(py, i64::from(marker as i8))),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f)),
            0xd9 => self.length::<1>().and_then(|len| self.text(len)),
            0xda => self.length::<2>().and_then(|len| self.text(len)),
            0xdb => self.length::<4>().and_then(|len| self.text(len)),
            0xc4 => self.length::<1>().and_then(|len| self.binary(len)),
            0xc5 => self.length::<2>().and_then(|len| self.binary(len)),
            0xc6 => self.length::<4>().and_then(|len| self.binary(len)),
            0xc0 => Ok(py.None().into_bound(py)),
            0xc2 | 0xc3 => Ok(PyBool::new(py, marker == 0xc3).to_owned().into_any()),
            0xcc => Ok(int(py, i64::from(u8::from_be_bytes(self.array()?)))),
            0xcd => Ok(int(py, i64::from(u16::from_be_bytes(self.array()?)))),
            0xce => Ok(int(py, i64::from(u32::from_be_bytes(self.array()?)))),
            0xcf => Ok(int(py, u64::from_be_bytes(self.array()?))),
            0xd0 => Ok(int(py, i64::from(i8::from_be_bytes(self.array()?)))),
            0xd1 => Ok(int(py, i64::from(i16::from_be_bytes(self.array()?)))),
            0xd2 => Ok(int(py, i64::from(i32::from_be_bytes(self.array()?)))),
            0xd3 => Ok(int(py, i64::from_be_bytes(self.array()?))),
            0xca => {
                let value = f64::from(f32::from_be_bytes(self.array()?));
                Ok(PyFloat::new(py, value).into_any())
            }
            0xcb => {
                let value = f64::from_be_bytes(self.array()?);
                Ok(PyFloat::new(py, value).into_any())
            }
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), levels),
            0xde => self.length::<2>().and_then(|len| self.map(len, levels)),
            0xdf => self.length::<4>().and_then(|len| self.map(len, levels)),
            0x90..=0x9f => self.list(usize::from(marker & 0x0f), levels),
            0xdc => self.length::<2>().and_then(|len| self.list(len, levels)),
            0xdd => self.length::<4>().and_then(|len| self.list(len, levels)),
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4)),
            0xc7 => self.length::<1>().and_then(|len| self.extension(len)),
            0xc8 => self.length::<2>().and_then(|len| self.extension(len)),
            0xc9 => self.length::<4>().and_then(|len| self.extension(len)),
            0xc1 => Err(malformed()),
        }
    }

    fn map(&mut self, len: usize, levels: usize) -> Outcome<Bound<'py, PyAny>> {
        self.dict(len, levels).map(Bound::into_any)
    }

    fn dict(&mut self, len: usize, levels: usize) -> Outcome<Bound<'py, PyDict>> {
        let dict = PyDict::new(self.py);
        if len == 0 {
            return Ok(dict);
        }
        let below = levels.checked_sub(1).ok_or_else(malformed)?;
        for _ in 0..len {
            let key = self.key(below)?;
            let value = self.value(below).map_err(|fail| fail.at_key(&key))?;
            dict.set_item(&key, value).map_err(|error| {
                if error.is_instance_of::<PyTypeError>(self.py) {
                    Fail::new(
                        "cannot read a map",
                        "an array or a map is one of its keys, which a dict cannot have",
                    )
                } else {
                    error.into()
                }
            })?;
        }
        Ok(dict)
    }

    fn list(&mut self, len: usize, levels: usize) -> Outcome<Bound<'py, PyAny>> {
        // Every item takes a byte at least.
        if len > self.left() {
            return Err(malformed());
        }
        if len == 0 {
            return Ok(PyList::empty(self.py).into_any());
        }
        let below = levels.checked_sub(1).ok_or_else(malformed)?;
        let py = self.py;
        let mut failed = None;
        let items = (0..len).map(|index| {
            if failed.is_none() {
                match self.value(below) {
                    Ok(item) => return Item(Some(item)),
                    Err(fail) => failed = Some(fail.at_index(index)),
                }
            }
            Item(None)
        });
        let list = PyList::new(py, items);
        match failed {
            None => Ok(list?.into_any()),
            Some(fail) => Err(fail),
        }
    }

    /// Text, or its bytes where a peer put something else there: as the published package does.
    fn text(&mut self, len: usize) -> Outcome<Bound<'py, PyAny>> {
        let py = self.py;
        let content = self.take(len)?;
        match PyString::from_bytes(py, content) {
            Ok(text) => Ok(text.into_any()),
            Err(_) => Ok(PyBytes::new(py, content).into_any()),
        }
    }

    fn binary(&mut self, len: usize) -> Outcome<Bound<'py, PyAny>> {
        if self.at == self.piece.len()
            && let Some((content, after)) = self.apart.take()
        {
            if content.len() != len {
                return Err(malformed());
            }
            (self.piece, self.at) = (after, 0);
            return self.object(content);
        }
        self.contained(len)
    }

    /// Binary data within the piece.
    fn contained(&mut self, len: usize) -> Outcome<Bound<'py, PyAny>> {
        if self.options.buffers {
            let content = self.slice(len)?;
            return self.object(&content);
        }
        Ok(PyBytes::new(self.py, self.take(len)?).into_any())
    }

    fn object(&self, content: &Bytes) -> Outcome<Bound<'py, PyAny>> {
        if self.options.buffers {
            Ok(Bound::new(self.py, Buffer::new(content.clone()))?.into_any())
        } else {
            Ok(PyBytes::new(self.py, content).into_any())
        }
    }

    /// A tensor, or the content of an extension of another type: as the published package does.
    fn extension(&mut self, len: usize) -> Outcome<Bound<'py, PyAny>> {
        let kind = self.byte()?;
        if kind == tensor::EXTENSION {
            let content = self.slice(len)?;
            return tensor::decode(self.py, &content);
        }
        self.contained(len)
    }

    fn key(&mut self, levels: usize) -> Outcome<Bound<'py, PyAny>> {
        let len = match self.piece.get(self.at) {
            Some(marker @ 0xa0..=0xbf) => usize::from(marker & 0x1f),
            _ => return self.value(levels),
        };
        self.at += 1;
        let py = self.py;
        let content = self.take(len)?;
        if let Some(keys) = &mut self.keys
            && let Some(key) = keys.get(py, content)
        {
            return Ok(key.into_any());
        }
        match PyString::from_bytes(py, content) {
            Ok(key) => Ok(key.into_any()),
            Err(_) => Ok(PyBytes::new(py, content).into_any()),
        }
    }

    fn left(&self) -> usize {
        let apart = self.apart.map_or(0, |(_, after)| after.len());
        self.piece.len() - self.at + apart
    }

    fn byte(&mut self) -> Outcome<u8> {
        let byte = *self.piece.get(self.at).ok_or_else(malformed)?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, len: usize) -> Outcome<&'a [u8]> {
        let rest = &self.piece[self.at..];
        let taken = rest.get(..len).ok_or_else(malformed)?;
        self.at += len;
        Ok(taken)
    }

    fn slice(&mut self, len: usize) -> Outcome<Bytes> {
        let start = self.at;
        self.take(len)?;
        Ok(self.piece.slice(start..start + len))
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| malformed())
    }

    fn length<const N: usize>(&mut self) -> Outcome<usize> {
        let taken = self.take(N)?;
        Ok(taken
            .iter()
            .fold(0, |len, byte| len << 8 | usize::from(*byte)))
    }
}

/// An item of a list to be; nothing ends the list with an error that nobody sees.
struct Item<'py>(Option<Bound<'py, PyAny>>);

impl<'py> IntoPyObject<'py> for Item<'py> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, _py: Python<'py>) -> PyResult<Self::Output> {
        self.0.ok_or_else(|| PyTypeError::new_err("no item"))
    }
}

/// Short map keys that came before, each as one `str` object whose hash is known.
///
/// Interned strings may live for ever, so a peer must not choose them; here a new key takes the
/// place of an old one.
struct KeyCache {
    slots: [Option<KnownKey>; CACHED_KEYS],
}

type KnownKey = (Box<[u8]>, Py<PyString>);

impl KeyCache {
    fn get<'py>(&mut self, py: Python<'py>, content: &[u8]) -> Option<Bound<'py, PyString>> {
        let slot = &mut self.slots[slot_of(content)];
        if let Some((known, key)) = slot
            && **known == *content
        {
            return Some(key.bind(py).clone());
        }
        let key = PyString::from_bytes(py, content).ok()?;
        *slot = Some((content.into(), key.clone().unbind()));
        Some(key)
    }
}

/// FNV-1a, folded; the keys are at most 31 bytes long.
fn slot_of(content: &[u8]) -> usize {
    let hash = content.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash ^ (hash >> 16)) as usize % CACHED_KEYS
}

fn int<'py, T>(py: Python<'py>, value: T) -> Bound<'py, PyAny>
where
    T: IntoPyObject<'py, Output = Bound<'py, pyo3::types::PyInt>, Error = std::convert::Infallible>,
{
    let Ok(int) = value.into_pyobject(py);
    int.into_any()
}

#[cold]
fn malformed() -> Box<Fail> {
    Fail::new("cannot read the value", "it is malformed or cut short")
}

static KEYS: Mutex<KeyCache> = Mutex::new(KeyCache {
    slots: [const { None }; CACHED_KEYS],
});

/// Slots for known keys.
const CACHED_KEYS: usize = 512;
