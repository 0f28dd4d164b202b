//! Values that are not plain: subclasses, records, enums, numbers of other kinds, bytes-like
//! objects and arrays.

use pyo3::{
    buffer::PyUntypedBuffer,
    exceptions::PyTypeError,
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{
        PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyMemoryView, PyString,
        PyTuple,
    },
};

use super::{
    buffer,
    encode::{Encoder, Keys, descend},
    fail::{Fail, Outcome},
    tensor::{self, Tensor},
};

/// Writes a value of none of the plain types.
pub(super) fn encode(
    encoder: &mut Encoder,
    value: &Bound<'_, PyAny>,
    levels: usize,
    keys: Keys,
) -> Outcome {
    if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
        return bytes_like(encoder, &PyUntypedBuffer::get(value)?, value);
    }
    if let Ok(tensor) = value.cast::<Tensor>() {
        return tensor.get().write(encoder);
    }
    if let Ok(text) = value.cast::<PyString>() {
        return encoder.text(text);
    }
    if let Ok(int) = value.cast::<PyInt>() {
        return encoder.int(int);
    }
    if let Ok(float) = value.cast::<PyFloat>() {
        encoder.float(float.value());
        return Ok(());
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return encoder.binary(bytes.as_bytes());
    }
    if tensor::is_array(value)? {
        return tensor::encode(encoder, value, levels);
    }
    if value.is_instance_of::<PyDict>() {
        return mapping(encoder, value, levels, keys);
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        return sequence(encoder, value, levels);
    }
    if is_model(value)? {
        return model(encoder, value, levels, keys);
    }
    if is_dataclass(value)? {
        return dataclass(encoder, value, levels);
    }
    if is_enum(value)? {
        let content = value.getattr(intern!(value.py(), "value"))?;
        return encoder.value(&content, descend(value, levels)?);
    }
    if value.cast::<PyMapping>().is_ok() {
        return mapping(encoder, value, levels, keys);
    }
    if let Some(number) = as_number(value)? {
        return encoder.value(&number, levels);
    }
    match PyUntypedBuffer::get(value) {
        Ok(view) => bytes_like(encoder, &view, value),
        Err(error) if error.is_instance_of::<PyTypeError>(value.py()) => Err(unsupported(value)),
        Err(error) => Err(error.into()),
    }
}

/// Whether a value has named entries: a mapping, a dataclass instance or a pydantic model.
pub(super) fn is_record(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(value.cast::<PyMapping>().is_ok() || is_model(value)? || is_dataclass(value)?)
}

/// The failure that a value's type has no form on the wire.
pub(super) fn unsupported(value: &Bound<'_, PyAny>) -> Box<Fail> {
    let kind = type_name(value);
    let advice = match kind.as_str() {
        "set" | "frozenset" | "range" | "generator" | "collections.deque" | "dict_keys"
        | "dict_values" | "dict_items" | "map" | "filter" | "zip" => "convert it with list(...)",
        "datetime.datetime" | "datetime.date" | "datetime.time" => {
            "convert it with .isoformat() or .timestamp()"
        }
        "datetime.timedelta" => "convert it with .total_seconds()",
        "complex" => "send .real and .imag",
        "uuid.UUID" | "pathlib.PosixPath" | "pathlib.WindowsPath" => "convert it with str(...)",
        _ => "convert it to None, bool, int, float, str, bytes, list, dict or an array",
    };
    Fail::new(format!("cannot send a value of type `{kind}`"), advice)
}

/// The name of a value's type, with its module unless it is a builtin.
pub(super) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().fully_qualified_name().map_or_else(
        |_| "?".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn bytes_like(encoder: &mut Encoder, view: &PyUntypedBuffer, value: &Bound<'_, PyAny>) -> Outcome {
    if view.is_c_contiguous() {
        encoder.binary_head(view.len_bytes())?;
        buffer::append(&mut encoder.out, view);
        return Ok(());
    }
    let gathered = PyMemoryView::from(value)?.call_method0(intern!(value.py(), "tobytes"))?;
    encoder.binary(gathered.cast::<PyBytes>().map_err(PyErr::from)?.as_bytes())
}

fn mapping(encoder: &mut Encoder, value: &Bound<'_, PyAny>, levels: usize, keys: Keys) -> Outcome {
    let items = value
        .call_method0(intern!(value.py(), "items"))?
        .try_iter()?
        .collect::<PyResult<Vec<_>>>()?;
    encoder.map_head(items.len())?;
    if items.is_empty() {
        return Ok(());
    }
    let below = descend(value, levels)?;
    for item in items {
        let (key, entry): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item.extract()?;
        encoder
            .key(&key, keys)
            .and_then(|()| encoder.value(&entry, below))
            .map_err(|fail| fail.at_key(&key).within(value))?;
    }
    Ok(())
}

fn sequence(encoder: &mut Encoder, value: &Bound<'_, PyAny>, levels: usize) -> Outcome {
    let items = value.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    encoder.array_head(items.len())?;
    if items.is_empty() {
        return Ok(());
    }
    let below = descend(value, levels)?;
    for (index, item) in items.iter().enumerate() {
        encoder
            .value(item, below)
            .map_err(|fail| fail.at_index(index).within(value))?;
    }
    Ok(())
}

fn model(encoder: &mut Encoder, value: &Bound<'_, PyAny>, levels: usize, keys: Keys) -> Outcome {
    let content = value.call_method0(intern!(value.py(), "model_dump"))?;
    match keys {
        Keys::Text if content.cast::<PyMapping>().is_ok() => {
            mapping(encoder, &content, levels, keys)
        }
        Keys::Text => Err(Fail::new(
            format!(
                "cannot send a model that dumps to `{}`",
                type_name(&content)
            ),
            "the data itself must be a mapping",
        )),
        // The level keeps a model that dumps to itself from going on for ever.
        Keys::Any => encoder.value(&content, descend(value, levels)?),
    }
}

fn dataclass(encoder: &mut Encoder, value: &Bound<'_, PyAny>, levels: usize) -> Outcome {
    static FIELDS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    let fields = FIELDS
        .import(py, "dataclasses", "fields")?
        .call1((value,))?
        .cast_into::<PyTuple>()
        .map_err(PyErr::from)?;
    encoder.map_head(fields.len())?;
    if fields.is_empty() {
        return Ok(());
    }
    let below = descend(value, levels)?;
    for field in fields.iter() {
        let name = field
            .getattr(intern!(py, "name"))?
            .cast_into::<PyString>()
            .map_err(PyErr::from)?;
        let content = value.getattr(&name)?;
        encoder
            .text(&name)
            .and_then(|()| encoder.value(&content, below))
            .map_err(|fail| fail.at_field(&name.to_string_lossy()).within(value))?;
    }
    Ok(())
}

/// Numbers of other kinds as an `int` or a `float`, as the published package takes them.
fn as_number<'py>(value: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = value.py();
    let kind = value.get_type();
    if kind.hasattr(intern!(py, "__index__"))? {
        static INDEX: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        return INDEX
            .import(py, "operator", "index")?
            .call1((value,))
            .map(Some);
    }
    if kind.hasattr(intern!(py, "__float__"))? {
        let number: PyResult<f64> = value.extract();
        return Ok(number
            .ok()
            .map(|number| PyFloat::new(py, number).into_any()));
    }
    Ok(None)
}

fn is_model(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.get_type().hasattr(intern!(value.py(), "model_dump"))
}

fn is_dataclass(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value
        .get_type()
        .hasattr(intern!(value.py(), "__dataclass_fields__"))
}

fn is_enum(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static ENUM: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    value.is_instance(ENUM.import(value.py(), "enum", "Enum")?)
}
