//! Received bytes as an object of the buffer protocol, without a copy.

use std::os::raw::c_int;

use bytes::Bytes;
use pyo3::{
    buffer::PyUntypedBuffer,
    exceptions::{PyIndexError, PyOverflowError, PyTypeError},
    ffi, intern,
    prelude::*,
    types::{PyBytes, PyMemoryView, PySlice, PyType},
};

/// Read-only bytes that were received, without a copy: `memoryview(b)`, `bytes(b)`, `len(b)`.
///
/// Equal to any bytes-like object of the same content, and hashed like `bytes`. A slice shares the
/// memory. It keeps the message that it came in alive; pickled or copied it becomes `bytes`.
#[pyclass(frozen, module = "btlightning")]
pub(crate) struct Buffer(Bytes);

impl Buffer {
    pub(crate) fn new(content: Bytes) -> Self {
        Self(content)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

#[pymethods]
impl Buffer {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0)
    }

    fn __repr__(&self) -> String {
        format!("<btlightning.Buffer of {} bytes>", self.0.len())
    }

    fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let content = &slf.get().0;
        let equal = if let Ok(other) = other.cast::<Self>() {
            *content == other.get().0
        } else if let Ok(other) = other.cast::<PyBytes>() {
            content == other.as_bytes()
        } else {
            match PyMemoryView::from(other) {
                // Compares element by element, and so by format and shape too.
                Ok(view) => view.eq(PyMemoryView::from(slf)?)?,
                Err(_) => return Ok(py.NotImplemented()),
            }
        };
        Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind())
    }

    fn __hash__(&self, py: Python<'_>) -> PyResult<isize> {
        PyBytes::new(py, &self.0).hash()
    }

    fn __getitem__<'py>(
        slf: &Bound<'py, Self>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let content = &slf.get().0;
        let Ok(slice) = index.cast::<PySlice>() else {
            let byte = at(content, index)?;
            return Ok(byte.into_pyobject(py)?.into_any());
        };
        let range = slice.indices(isize::try_from(content.len())?)?;
        let part = if range.step == 1 {
            let start = range.start.unsigned_abs();
            content.slice(start..start + range.slicelength)
        } else {
            bytes_of(&PyMemoryView::from(slf)?.get_item(index)?)?
        };
        Ok(Bound::new(py, Self(part))?.into_any())
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyType>, (Bound<'py, PyBytes>,)) {
        (py.get_type::<PyBytes>(), (self.__bytes__(py),))
    }

    /// Fills in a view of the bytes.
    ///
    /// # Safety
    ///
    /// CPython calls it with a view to be filled in.
    #[allow(unsafe_code)]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let content = &slf.get().0;
        let len = ffi::Py_ssize_t::try_from(content.len())?;
        // SAFETY: the view takes a reference to `slf`, which is frozen and keeps the bytes where
        // they are; the view is read-only, and a request to write is refused by the call.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                content.as_ptr().cast_mut().cast(),
                len,
                1,
                flags,
            )
        };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

fn at(content: &[u8], index: &Bound<'_, PyAny>) -> PyResult<u8> {
    let index = match index.extract::<isize>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(index.py()) => isize::MAX,
        extracted => extracted?,
    };
    let from_start = if index < 0 {
        content.len().checked_sub(index.unsigned_abs())
    } else {
        Some(index.unsigned_abs())
    };
    from_start
        .and_then(|index| content.get(index).copied())
        .ok_or_else(|| PyIndexError::new_err("index out of range"))
}

/// Takes the content of a bytes-like object: shared for a [`Buffer`], copied otherwise.
pub(crate) fn bytes_of(value: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(buffer) = value.cast::<Buffer>() {
        return Ok(buffer.get().0.clone());
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Bytes::copy_from_slice(bytes.as_bytes()));
    }
    let view = PyUntypedBuffer::get(value).map_err(|error| {
        if !error.is_instance_of::<PyTypeError>(value.py()) {
            return error;
        }
        let kind = super::objects::type_name(value);
        PyTypeError::new_err(format!("a bytes-like object is needed, not {kind}"))
    })?;
    if !view.is_c_contiguous() {
        let gathered = PyMemoryView::from(value)?.call_method0(intern!(value.py(), "tobytes"))?;
        return bytes_of(&gathered);
    }
    let mut content = Vec::new();
    append(&mut content, &view);
    Ok(content.into())
}

/// Appends the bytes of a C-contiguous view.
#[allow(unsafe_code)]
pub(super) fn append(out: &mut Vec<u8>, view: &PyUntypedBuffer) {
    let len = view.len_bytes();
    out.reserve(len);
    if len == 0 {
        return;
    }
    // SAFETY: a C-contiguous view has `len_bytes` readable bytes at `buf_ptr` for as long as it is
    // held, and `out` has room for as many. No reference to the source is made, since whoever owns
    // it may write to it.
    unsafe {
        let end = out.as_mut_ptr().add(out.len());
        std::ptr::copy_nonoverlapping(view.buf_ptr().cast::<u8>(), end, len);
        out.set_len(out.len() + len);
    }
}
