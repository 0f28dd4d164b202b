//! Plain values straight into bytes; what is not plain is the business of [`objects`].

use pyo3::{
    PyTypeInfo,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};

use super::{
    Tensors,
    buffer::Buffer,
    fail::{Fail, MAX_LEVELS, Outcome},
    objects,
};

/// Encodes `data`; says whether there are tensors in it.
pub(super) fn encode(data: &Bound<'_, PyAny>, tensors: Tensors) -> PyResult<(Vec<u8>, bool)> {
    let mut encoder = Encoder {
        out: Vec::new(),
        tensors,
        has_tensors: false,
    };
    match encoder.top(data) {
        Ok(()) => Ok((encoder.out, encoder.has_tensors)),
        Err(fail) => Err(fail.into_error()),
    }
}

/// MessagePack as it grows. Every value takes its shortest form.
pub(super) struct Encoder {
    pub(super) out: Vec<u8>,
    pub(super) tensors: Tensors,
    pub(super) has_tensors: bool,
}

impl Encoder {
    fn top(&mut self, data: &Bound<'_, PyAny>) -> Outcome {
        if let Some(dict) = exact::<PyDict>(data) {
            self.out.reserve(size_hint(dict));
            return self.dict(dict, MAX_LEVELS + 1, Keys::Text);
        }
        self.out.reserve(SMALL);
        if data.is_none() {
            self.map_head(0)
        } else if objects::is_record(data)? {
            objects::encode(self, data, MAX_LEVELS + 1, Keys::Text)
        } else {
            let kind = data.get_type().fully_qualified_name()?;
            Err(PyTypeError::new_err(format!(
                "data must be a mapping with str keys, not {}",
                kind.to_string_lossy()
            ))
            .into())
        }
    }

    /// Writes a value that may hold `levels` levels of arrays and maps.
    pub(super) fn value(&mut self, value: &Bound<'_, PyAny>, levels: usize) -> Outcome {
        if let Some(text) = exact::<PyString>(value) {
            self.text(text)
        } else if let Some(bytes) = exact::<PyBytes>(value) {
            self.binary(bytes.as_bytes())
        } else if let Some(int) = exact::<PyInt>(value) {
            self.int(int)
        } else if let Some(dict) = exact::<PyDict>(value) {
            self.dict(dict, levels, Keys::Any)
        } else if let Some(list) = exact::<PyList>(value) {
            self.list(list, levels)
        } else if let Some(float) = exact::<PyFloat>(value) {
            self.float(float.value());
            Ok(())
        } else if value.is_none() {
            self.out.push(0xc0);
            Ok(())
        } else if let Some(flag) = exact::<PyBool>(value) {
            self.flag(flag.is_true());
            Ok(())
        } else if let Some(tuple) = exact::<PyTuple>(value) {
            self.tuple(tuple, levels)
        } else if let Some(buffer) = exact::<Buffer>(value) {
            self.binary(buffer.get().as_slice())
        } else {
            objects::encode(self, value, levels, Keys::Any)
        }
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.out.push(0xc2 + u8::from(flag));
    }

    pub(super) fn int(&mut self, int: &Bound<'_, PyInt>) -> Outcome {
        if let Ok(value) = int.extract::<i64>() {
            self.signed(value);
            return Ok(());
        }
        let value: u64 = int.extract().map_err(|_| {
            Fail::new(
                "cannot send an int of more than 64 bits",
                "send it as a str or as bytes",
            )
        })?;
        self.unsigned(value);
        Ok(())
    }

    pub(super) fn float(&mut self, value: f64) {
        self.out.push(0xcb);
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &Bound<'_, PyString>) -> Outcome {
        let text = text.to_str().map_err(|_| {
            Fail::new(
                "cannot send a str with unpaired surrogates",
                "send it as bytes",
            )
        })?;
        match text.len() {
            len @ 0..32 => self.out.push(0xa0 | len as u8),
            len => self.head([Some(0xd9), Some(0xda), Some(0xdb)], len)?,
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(super) fn binary(&mut self, content: &[u8]) -> Outcome {
        self.binary_head(content.len())?;
        self.out.extend_from_slice(content);
        Ok(())
    }

    /// Writes the head of a binary value, and makes room for its content and what may follow.
    pub(super) fn binary_head(&mut self, len: usize) -> Outcome {
        self.out.reserve(len.saturating_add(SMALL));
        self.head([Some(0xc4), Some(0xc5), Some(0xc6)], len)
    }

    /// Writes the head of an extension value, and makes room for its content and what may follow.
    pub(super) fn extension_head(&mut self, len: usize, kind: u8) -> Outcome {
        self.out.reserve(len.saturating_add(SMALL));
        match len {
            1 => self.out.push(0xd4),
            2 => self.out.push(0xd5),
            4 => self.out.push(0xd6),
            8 => self.out.push(0xd7),
            16 => self.out.push(0xd8),
            _ => self.head([Some(0xc7), Some(0xc8), Some(0xc9)], len)?,
        }
        self.out.push(kind);
        Ok(())
    }

    pub(super) fn array_head(&mut self, len: usize) -> Outcome {
        match len {
            0..16 => self.out.push(0x90 | len as u8),
            _ => self.head([None, Some(0xdc), Some(0xdd)], len)?,
        }
        Ok(())
    }

    pub(super) fn map_head(&mut self, len: usize) -> Outcome {
        match len {
            0..16 => self.out.push(0x80 | len as u8),
            _ => self.head([None, Some(0xde), Some(0xdf)], len)?,
        }
        Ok(())
    }

    pub(super) fn key(&mut self, key: &Bound<'_, PyAny>, keys: Keys) -> Outcome {
        if let Some(text) = exact::<PyString>(key) {
            return self.text(text);
        }
        if let Ok(text) = key.cast::<PyString>() {
            return self.text(text);
        }
        let plain = key.is_none()
            || key.is_instance_of::<PyInt>()
            || key.is_instance_of::<PyFloat>()
            || key.is_instance_of::<PyBytes>();
        if plain && keys == Keys::Any {
            return self.value(key, 0);
        }
        let kind = objects::type_name(key);
        Err(match keys {
            Keys::Any => Fail::new(
                format!("cannot send a map key of type `{kind}`"),
                "use keys of type str",
            ),
            Keys::Text => Fail::new(
                format!("cannot send a key of type `{kind}`"),
                "the keys of data itself must be str",
            ),
        })
    }

    fn signed(&mut self, value: i64) {
        match value {
            0.. => self.unsigned(value as u64),
            -32..0 => self.out.push(value as u8),
            -0x80..-32 => self.out.extend_from_slice(&[0xd0, value as u8]),
            -0x8000..-0x80 => self.wide(0xd1, &(value as i16).to_be_bytes()),
            -0x8000_0000..-0x8000 => self.wide(0xd2, &(value as i32).to_be_bytes()),
            _ => self.wide(0xd3, &value.to_be_bytes()),
        }
    }

    fn unsigned(&mut self, value: u64) {
        match value {
            0..0x80 => self.out.push(value as u8),
            0x80..0x100 => self.out.extend_from_slice(&[0xcc, value as u8]),
            0x100..0x1_0000 => self.wide(0xcd, &(value as u16).to_be_bytes()),
            0x1_0000..0x1_0000_0000 => self.wide(0xce, &(value as u32).to_be_bytes()),
            _ => self.wide(0xcf, &value.to_be_bytes()),
        }
    }

    fn wide<const N: usize>(&mut self, marker: u8, content: &[u8; N]) {
        self.out.push(marker);
        self.out.extend_from_slice(content);
    }

    /// Writes a length behind the narrowest of the markers for 8, 16 and 32 bits.
    fn head(&mut self, markers: [Option<u8>; 3], len: usize) -> Outcome {
        match (markers, len) {
            ([Some(marker), ..], 0..0x100) => self.wide(marker, &[len as u8]),
            ([_, Some(marker), _], 0..0x1_0000) => {
                self.wide(marker, &(len as u16).to_be_bytes());
            }
            ([_, _, Some(marker)], 0..0x1_0000_0000) => {
                self.wide(marker, &(len as u32).to_be_bytes());
            }
            _ => {
                return Err(Fail::new(
                    format!("cannot send a value of length {len}"),
                    "split it: lengths have 32 bits",
                ));
            }
        }
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, levels: usize, keys: Keys) -> Outcome {
        if dict.is_empty() {
            return self.map_head(0);
        }
        let below = descend(dict, levels)?;
        let written = if cfg!(Py_GIL_DISABLED) {
            // Another thread may change it while it is read here.
            self.entries(&dict.copy()?, below, keys)
        } else {
            self.entries(dict, below, keys)
        };
        written.map_err(|fail| fail.within(dict))
    }

    fn entries(&mut self, dict: &Bound<'_, PyDict>, below: usize, keys: Keys) -> Outcome {
        let len = dict.len();
        self.map_head(len)?;
        let mut entries = dict.iter();
        for _ in 0..len {
            // Code of a value may have changed the dict; going on in it would be a panic.
            if dict.len() != len {
                return Err(changed("dict"));
            }
            let Some((key, value)) = entries.next() else {
                return Err(changed("dict"));
            };
            self.key(&key, keys)
                .and_then(|()| self.value(&value, below))
                .map_err(|fail| fail.at_key(&key))?;
        }
        Ok(())
    }

    fn list(&mut self, list: &Bound<'_, PyList>, levels: usize) -> Outcome {
        let len = list.len();
        self.array_head(len)?;
        if len == 0 {
            return Ok(());
        }
        let below = descend(list, levels)?;
        // Items of one byte at least; longer ones are reserved for as they come.
        self.out.reserve(len);
        let mut written = 0;
        for item in list.iter().take(len) {
            self.value(&item, below)
                .map_err(|fail| fail.at_index(written).within(list))?;
            written += 1;
        }
        if written != len {
            return Err(changed("list"));
        }
        Ok(())
    }

    fn tuple(&mut self, tuple: &Bound<'_, PyTuple>, levels: usize) -> Outcome {
        self.array_head(tuple.len())?;
        if tuple.is_empty() {
            return Ok(());
        }
        let below = descend(tuple, levels)?;
        for (index, item) in tuple.iter().enumerate() {
            self.value(&item, below)
                .map_err(|fail| fail.at_index(index).within(tuple))?;
        }
        Ok(())
    }
}

/// Which keys a map may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// The data of a request or an answer: text alone.
    Text,
    /// A map within it: as Python peers have always sent them.
    Any,
}

/// Takes one of the levels that are left.
pub(super) fn descend(container: &Bound<'_, PyAny>, levels: usize) -> Outcome<usize> {
    levels
        .checked_sub(1)
        .ok_or_else(|| Fail::too_deep(container))
}

fn changed(kind: &str) -> Box<Fail> {
    Fail::new(
        format!("cannot send a {kind} that changes meanwhile"),
        "send a copy",
    )
}

/// A downcast to exactly `T` that costs nothing where it fails, unlike `cast_exact` alone.
fn exact<'a, 'py, T: PyTypeInfo>(value: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, T>> {
    if value.is_exact_instance_of::<T>() {
        value.cast_exact().ok()
    } else {
        None
    }
}

/// Bytes to reserve, so that large entries do not make the output grow twice.
fn size_hint(dict: &Bound<'_, PyDict>) -> usize {
    if dict.len() > LOOKED_AT {
        return dict.len().saturating_mul(16);
    }
    let mut hint = SMALL;
    for (_, value) in dict.iter() {
        hint += if let Some(bytes) = exact::<PyBytes>(&value) {
            bytes.as_bytes().len()
        } else if let Some(buffer) = exact::<Buffer>(&value) {
            buffer.get().as_slice().len()
        } else if let Some(list) = exact::<PyList>(&value) {
            list.len()
        } else {
            0
        };
    }
    hint
}

/// Room for the small things around a large one.
const SMALL: usize = 192;

/// Dicts of more entries are not looked through beforehand.
const LOOKED_AT: usize = 32;
