//! NumPy and ml_dtypes, where they are installed: imported when the first array is met, once.

use pyo3::{
    exceptions::PyImportError,
    intern,
    prelude::*,
    sync::PyOnceLock,
    types::{PyFloat, PyString},
};

use super::{
    fail::{Fail, Outcome},
    objects,
    tensor::Dtype,
};

/// What is needed of NumPy.
pub(super) struct Numpy {
    /// `numpy.ndarray`.
    pub(super) array: Py<PyAny>,
    asarray: Py<PyAny>,
    from_dlpack: Py<PyAny>,
    scalar: Py<PyAny>,
    /// By number on the wire; `None` for those of ml_dtypes where it is not installed.
    dtypes: Vec<Option<Py<PyAny>>>,
}

/// Returns NumPy, or `None` where it is not installed.
pub(super) fn numpy(py: Python<'_>) -> PyResult<Option<&'static Numpy>> {
    static NUMPY: PyOnceLock<Option<Numpy>> = PyOnceLock::new();
    let numpy = NUMPY.get_or_try_init(py, || {
        let Some(module) = installed(py, "numpy")? else {
            return Ok::<_, PyErr>(None);
        };
        let extra = installed(py, "ml_dtypes")?;
        let dtype = module.getattr("dtype")?;
        let mut dtypes = Vec::new();
        for known in Dtype::all() {
            dtypes.push(if !known.needs_ml_dtypes() {
                let little_endian = dtype
                    .call1((known.name(),))?
                    .call_method1("newbyteorder", ("<",))?;
                Some(little_endian.unbind())
            } else if let Some(extra) = &extra
                && let Some(class) = extra.getattr_opt(known.name())?
            {
                Some(dtype.call1((class,))?.unbind())
            } else {
                None
            });
        }
        Ok(Some(Numpy {
            array: module.getattr("ndarray")?.unbind(),
            asarray: module.getattr("asarray")?.unbind(),
            from_dlpack: module.getattr("from_dlpack")?.unbind(),
            scalar: module.getattr("generic")?.unbind(),
            dtypes,
        }))
    })?;
    Ok(numpy.as_ref())
}

impl Numpy {
    pub(super) fn dtype<'py>(&self, py: Python<'py>, dtype: Dtype) -> Option<Bound<'py, PyAny>> {
        let known = self.dtypes[dtype.index()].as_ref()?;
        Some(known.bind(py).clone())
    }

    pub(super) fn is_scalar(&self, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        value.is_instance(self.scalar.bind(value.py()))
    }

    /// A scalar as a builtin number; `None` where it is none.
    pub(super) fn plain<'py>(
        &self,
        scalar: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = scalar.py();
        let item = scalar.call_method0(intern!(py, "item"))?;
        if !self.is_scalar(&item)? {
            return Ok(Some(item));
        }
        // The scalars of ml_dtypes are their own items.
        if let Ok(int) = scalar.extract::<i64>() {
            return Ok(Some(int.into_pyobject(py)?.into_any()));
        }
        let float = scalar.extract::<f64>().ok();
        Ok(float.map(|float| PyFloat::new(py, float).into_any()))
    }

    /// Makes a C-contiguous, little-endian `ndarray` of an array of any library, without a copy
    /// where it is one already.
    pub(super) fn array_of<'py>(
        &self,
        value: &Bound<'py, PyAny>,
    ) -> Outcome<(Bound<'py, PyAny>, Dtype)> {
        let py = value.py();
        let interface = value
            .get_type()
            .hasattr(intern!(py, "__array_interface__"))?;
        let (source, viewed_as) = if interface {
            (value.clone(), None)
        } else {
            self.foreign(value)?
        };
        let asarray = self.asarray.bind(py);
        let array = asarray.call1((source, py.None(), "C"))?;
        let dtype = array.getattr(intern!(py, "dtype"))?;
        if let Some(viewed_as) = viewed_as {
            return Ok((array, viewed_as));
        }
        for known in Dtype::all() {
            if self.dtype(py, known).is_some_and(|known| known.is(&dtype)) {
                return Ok((array, known));
            }
        }
        let name = dtype.getattr(intern!(py, "name"))?;
        let name = name.cast::<PyString>().map_err(PyErr::from)?.to_str()?;
        let Some(known) = Dtype::named(name) else {
            return Err(Fail::new(
                format!("cannot send an array of dtype `{name}`"),
                "convert it, for example with .tolist() or .astype(...)",
            ));
        };
        // Of another byte order, or another name for the same type.
        let array = asarray.call1((array, self.dtype(py, known), "C"))?;
        Ok((array, known))
    }

    /// The bytes of a C-contiguous array as an array of `uint8`.
    pub(super) fn as_bytes<'py>(&self, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = array.py();
        array
            .call_method1(intern!(py, "reshape"), (-1,))?
            .call_method1(intern!(py, "view"), (intern!(py, "uint8"),))
    }

    /// Reads an array of another library, through DLPack or its own way to NumPy; says what its
    /// elements are when they had to be taken for integers of their size.
    fn foreign<'py>(
        &self,
        value: &Bound<'py, PyAny>,
    ) -> Outcome<(Bound<'py, PyAny>, Option<Dtype>)> {
        let py = value.py();
        let (device, _): (i32, i32) = value
            .call_method0(intern!(py, "__dlpack_device__"))?
            .extract()?;
        if !HOST_DEVICES.contains(&device) {
            return Err(Fail::new(
                format!(
                    "cannot send a `{}` that is not in host memory",
                    objects::type_name(value)
                ),
                "move it there first, for example with .cpu()",
            ));
        }
        // A tensor that takes part in a gradient is not given away; its values are.
        let value = match value.getattr_opt(intern!(py, "detach"))? {
            Some(detach) => detach.call0()?,
            None => value.clone(),
        };
        let name = value.getattr_opt(intern!(py, "dtype"))?;
        let name = name.map(|dtype| dtype.str()).transpose()?;
        let name = name.as_ref().map_or("", |name| name.to_str().unwrap_or(""));
        if let Some(dtype) = Dtype::named(name.strip_prefix("torch.").unwrap_or(""))
            && dtype.needs_ml_dtypes()
        {
            let stand_in = if dtype.name() == "bfloat16" {
                "int16"
            } else {
                "uint8"
            };
            let integers = py.import("torch")?.getattr(stand_in)?;
            let viewed = value.call_method1(intern!(py, "view"), (integers,))?;
            return Ok((self.imported(&viewed)?, Some(dtype)));
        }
        Ok((self.imported(&value)?, None))
    }

    fn imported<'py>(&self, value: &Bound<'py, PyAny>) -> Outcome<Bound<'py, PyAny>> {
        let py = value.py();
        match self.from_dlpack.bind(py).call1((value,)) {
            Ok(array) => Ok(array),
            // DLPack has fewer dtypes than arrays have.
            Err(_) if value.hasattr(intern!(py, "__array__"))? => Ok(value.clone()),
            Err(error) => Err(Fail::new(
                format!(
                    "cannot read a `{}` as an array ({error})",
                    objects::type_name(value)
                ),
                "convert it to a NumPy array",
            )),
        }
    }
}

fn installed<'py>(py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyModule>>> {
    match py.import(name) {
        Ok(module) => Ok(Some(module)),
        Err(error) if error.is_instance_of::<PyImportError>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// DLPack's numbers for memory that the CPU reads: its own, and pinned or managed by CUDA and ROCm.
const HOST_DEVICES: [i32; 4] = [1, 3, 11, 13];
