//! Arrays on the wire: dtype, shape and elements as one extension value.
//!
//! The content of the extension type [`EXTENSION`] is
//! `version (1): u8 | dtype: u8 | dimensions: u8 | padding: u8 | sizes: u64 each | zeros | elements`,
//! little-endian, elements in C order. The padding lets the elements begin at a multiple of eight
//! within the content.

use bytes::Bytes;
use pyo3::{
    buffer::PyUntypedBuffer,
    exceptions::{PyBufferError, PyImportError, PyValueError},
    intern,
    prelude::*,
    types::{PyDict, PyTuple, PyType},
};

use super::{
    Tensors, buffer,
    buffer::{Buffer, bytes_of},
    encode::Encoder,
    fail::{Fail, Outcome},
    numpy::{Numpy, numpy},
    objects,
};

/// The extension type of a tensor, `T`.
pub(crate) const EXTENSION: u8 = 0x54;

/// An array that came in a request or an answer, where NumPy has no array for it.
///
/// `Tensor(dtype, shape, data)` makes one to be sent. `dtype` is a name as in NumPy or ml_dtypes,
/// `data` holds the elements, little-endian and in C order.
#[pyclass(frozen, module = "btlightning")]
#[derive(Debug)]
pub(crate) struct Tensor {
    dtype: Dtype,
    shape: Vec<u64>,
    content: Bytes,
}

#[pymethods]
impl Tensor {
    #[new]
    fn new(dtype: &str, shape: Vec<u64>, data: &Bound<'_, PyAny>) -> PyResult<Self> {
        let dtype = Dtype::named(dtype).ok_or_else(|| {
            let known = DTYPES.map(|(name, _)| name).join(", ");
            PyValueError::new_err(format!("unknown dtype {dtype:?}: use one of {known}"))
        })?;
        Self::checked(dtype, shape, bytes_of(data)?).map_err(PyValueError::new_err)
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    #[getter]
    fn data(&self) -> Buffer {
        Buffer::new(self.content.clone())
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.content.len()
    }

    /// Returns a read-only `numpy.ndarray` over the same bytes.
    fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let numpy =
            numpy(py)?.ok_or_else(|| PyImportError::new_err("needs NumPy: pip install numpy"))?;
        match self.over(py, numpy) {
            Some(array) => array,
            None => Err(PyImportError::new_err(format!(
                "NumPy has {} with ml_dtypes alone: pip install ml_dtypes",
                self.dtype.name()
            ))),
        }
    }

    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = self.numpy(py)?;
        if let Some(dtype) = dtype
            && !array.getattr(intern!(py, "dtype"))?.eq(&dtype)?
        {
            if copy == Some(false) {
                return Err(PyValueError::new_err("another dtype needs a copy"));
            }
            return array.call_method1(intern!(py, "astype"), (dtype,));
        }
        if copy == Some(true) {
            return array.call_method0(intern!(py, "copy"));
        }
        Ok(array)
    }

    #[pyo3(signature = (**kwargs))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if self.dtype.needs_ml_dtypes() {
            return Err(PyBufferError::new_err(format!(
                "NumPy cannot hand on {0} through DLPack: take `data`, for example \
                 torch.frombuffer(t.data, dtype=torch.{0}).reshape(t.shape)",
                self.dtype.name()
            )));
        }
        self.numpy(py)?
            .call_method(intern!(py, "__dlpack__"), (), kwargs)
    }

    /// The CPU, as DLPack numbers devices.
    fn __dlpack_device__(&self) -> (i32, i32) {
        (1, 0)
    }

    fn __repr__(&self) -> String {
        format!(
            "<btlightning.Tensor {} {:?}>",
            self.dtype.name(),
            self.shape
        )
    }

    #[allow(clippy::type_complexity)]
    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(
        Bound<'py, PyType>,
        (&'static str, Bound<'py, PyTuple>, Buffer),
    )> {
        let arguments = (self.dtype.name(), self.shape(py)?, self.data());
        Ok((py.get_type::<Self>(), arguments))
    }
}

impl Tensor {
    pub(super) fn write(&self, encoder: &mut Encoder) -> Outcome {
        head(encoder, self.dtype, &self.shape, self.content.len())?;
        encoder.out.extend_from_slice(&self.content);
        Ok(())
    }

    /// An array of NumPy over the content; `None` where NumPy lacks the dtype.
    fn over<'py>(&self, py: Python<'py>, numpy: &Numpy) -> Option<PyResult<Bound<'py, PyAny>>> {
        let dtype = numpy.dtype(py, self.dtype)?;
        let make = || {
            let shape = PyTuple::new(py, &self.shape)?;
            let content = Bound::new(py, self.data())?;
            numpy.array.bind(py).call1((shape, dtype, content))
        };
        Some(make())
    }

    fn parse(content: &Bytes) -> Result<Self, String> {
        let (head, rest) = content.split_at_checked(HEAD).ok_or("it is cut short")?;
        let [1, dtype, dimensions, padding] = *head else {
            return Err("its format is of a later version".into());
        };
        let dtype = Dtype::coded(dtype).ok_or_else(|| format!("it has dtype {dtype}"))?;
        let dimensions = usize::from(dimensions);
        let padding = usize::from(padding);
        if dimensions > MAX_DIMENSIONS || padding > 7 {
            return Err("its head is invalid".into());
        }
        let (sizes, _) = rest
            .split_at_checked(dimensions * 8)
            .ok_or("it is cut short")?;
        let shape = sizes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|size| u64::from_le_bytes(*size))
            .collect();
        let start = HEAD + sizes.len() + padding;
        if start > content.len() {
            return Err("it is cut short".into());
        }
        let elements = content.slice(start..);
        Self::checked(dtype, shape, elements)
    }

    fn checked(dtype: Dtype, shape: Vec<u64>, content: Bytes) -> Result<Self, String> {
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("it has more than {MAX_DIMENSIONS} dimensions"));
        }
        let needed = shape.iter().try_fold(dtype.size() as u64, |bytes, size| {
            bytes
                .checked_mul(*size)
                .filter(|bytes| *bytes <= i64::MAX as u64)
        });
        if needed != Some(content.len() as u64) {
            return Err(format!(
                "{} bytes do not fit {} of shape {shape:?}",
                content.len(),
                dtype.name()
            ));
        }
        // Other bytes than 0 and 1 are undefined behaviour in code that compilers made of bool.
        if dtype == Dtype::BOOL && content.iter().any(|byte| *byte > 1) {
            return Err("it has values that are no bool".into());
        }
        Ok(Self {
            dtype,
            shape,
            content,
        })
    }
}

/// Whether a value is an array or a scalar of one: what NumPy makes, or has a way to read.
pub(super) fn is_array(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let kind = value.get_type();
    let py = value.py();
    Ok(kind.hasattr(intern!(py, "__array_interface__"))?
        || kind.hasattr(intern!(py, "__dlpack__"))?)
}

/// Writes an array as a tensor, and a scalar of NumPy as a number.
pub(super) fn encode(encoder: &mut Encoder, value: &Bound<'_, PyAny>, levels: usize) -> Outcome {
    let py = value.py();
    let Some(numpy) = numpy(py)? else {
        return Err(Fail::new(
            format!(
                "cannot send a `{}` without NumPy",
                objects::type_name(value)
            ),
            "install it: pip install numpy",
        ));
    };
    if numpy.is_scalar(value)? {
        let number = numpy.plain(value)?;
        return match number {
            Some(number) => encoder.value(&number, levels),
            None => Err(objects::unsupported(value)),
        };
    }
    let (array, dtype) = numpy.array_of(value)?;
    let shape: Vec<u64> = array.getattr(intern!(py, "shape"))?.extract()?;
    let bytes = if dtype.needs_ml_dtypes() || shape.is_empty() {
        // NumPy exports no buffer of a dtype that is not its own, and one without a shape for an
        // array without dimensions.
        PyUntypedBuffer::get(&numpy.as_bytes(&array)?)?
    } else {
        PyUntypedBuffer::get(&array)?
    };
    head(encoder, dtype, &shape, bytes.len_bytes())?;
    buffer::append(&mut encoder.out, &bytes);
    Ok(())
}

/// Reads the content of the extension type; the elements are not copied.
pub(super) fn decode<'py>(py: Python<'py>, content: &Bytes) -> Outcome<Bound<'py, PyAny>> {
    const WHAT: &str = "cannot read the tensor";
    let tensor = Tensor::parse(content).map_err(|reason| Fail::new(WHAT, reason))?;
    if let Some(numpy) = numpy(py)?
        && let Some(array) = tensor.over(py, numpy)
    {
        return array.map_err(|error| Fail::new(WHAT, error.to_string()));
    }
    Ok(Bound::new(py, tensor)?.into_any())
}

/// Writes what stands before the elements.
fn head(encoder: &mut Encoder, dtype: Dtype, shape: &[u64], len: usize) -> Outcome {
    encoder.has_tensors = true;
    if encoder.tensors == Tensors::Bytes {
        return encoder.binary_head(len);
    }
    let dimensions = match u8::try_from(shape.len()) {
        Ok(dimensions) if shape.len() <= MAX_DIMENSIONS => dimensions,
        _ => {
            return Err(Fail::new(
                format!("cannot send an array of {} dimensions", shape.len()),
                "reshape it to 32 or fewer",
            ));
        }
    };
    let sizes = HEAD + shape.len() * 8;
    let padding = sizes.next_multiple_of(8) - sizes;
    encoder.extension_head(sizes + padding + len, EXTENSION)?;
    let out = &mut encoder.out;
    out.extend_from_slice(&[1, dtype.0, dimensions, padding as u8]);
    for size in shape {
        out.extend_from_slice(&size.to_le_bytes());
    }
    out.extend_from_slice(&[0; 8][..padding]);
    Ok(())
}

/// The type of a tensor's elements, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dtype(u8);

impl Dtype {
    const BOOL: Self = Self(0);

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self).take(DTYPES.len())
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::all().find(|dtype| dtype.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        DTYPES[self.index()].0
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether NumPy has it through the package ml_dtypes.
    pub(super) fn needs_ml_dtypes(self) -> bool {
        matches!(self.name(), "bfloat16" | "float8_e4m3fn" | "float8_e5m2")
    }

    fn coded(code: u8) -> Option<Self> {
        (usize::from(code) < DTYPES.len()).then_some(Self(code))
    }

    fn size(self) -> usize {
        DTYPES[self.index()].1
    }
}

/// Names as NumPy and ml_dtypes have them, and sizes in bytes; the place is the number on the wire.
const DTYPES: [(&str, usize); 17] = [
    ("bool", 1),
    ("uint8", 1),
    ("uint16", 2),
    ("uint32", 4),
    ("uint64", 8),
    ("int8", 1),
    ("int16", 2),
    ("int32", 4),
    ("int64", 8),
    ("float16", 2),
    ("bfloat16", 2),
    ("float32", 4),
    ("float64", 8),
    ("complex64", 8),
    ("complex128", 16),
    ("float8_e4m3fn", 1),
    ("float8_e5m2", 1),
];

/// Version, dtype, number of dimensions, padding.
const HEAD: usize = 4;

/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 32;
