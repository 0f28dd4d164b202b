//! Python on threads that Rust has started.

use std::{cell::OnceCell, ffi::c_int};

use pyo3::{exceptions::PySystemError, ffi, prelude::*, types::PyTuple};

/// Like [`Python::try_attach`], and keeps this thread's Python state until the thread ends, so
/// that only the first call has to make one. `None` when the interpreter is gone.
pub(super) fn attach<R>(f: impl FnOnce(Python<'_>) -> R) -> Option<R> {
    Python::try_attach(|py| {
        KEPT.with(|kept| {
            kept.get_or_init(|| KeptState::new(py));
        });
        f(py)
    })
}

/// Calls `callable`. To be used on threads that Rust has started.
///
/// Before Python 3.14, a thread that asks for the GIL while the interpreter finalizes is ended by
/// `pthread_exit`, which unwinds its stack. Running Python code asks for the GIL all the time, and
/// Rust frames that do not expect an unwind abort the process; so the unwinding is stopped at the
/// first of them, and the thread sleeps until the process ends, as Python 3.14 has it.
#[allow(unsafe_code)]
pub(super) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    let guard = Hang;
    // SAFETY: both pointers are valid, the thread is attached (`Bound` proves it), and the callee
    // may unwind; it returns a new reference, or null with an exception set.
    unsafe {
        let result = PyObject_Call(callable.as_ptr(), args.as_ptr(), std::ptr::null_mut());
        std::mem::forget(guard);
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Returns the next item of an iterator, as [`call`] calls.
#[allow(unsafe_code)]
pub(super) fn next<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = iterator.py();
    // SAFETY: the pointer is valid and the thread attached.
    if unsafe { PyIter_Check(iterator.as_ptr()) } == 0 {
        return Err(PySystemError::new_err("not an iterator"));
    }
    let guard = Hang;
    // SAFETY: as in `call`; the object is an iterator. Null without an exception is its end.
    let item = unsafe {
        let item = PyIter_Next(iterator.as_ptr());
        std::mem::forget(guard);
        Bound::from_owned_ptr_or_opt(py, item)
    };
    match item {
        Some(item) => Ok(Some(item)),
        None => PyErr::take(py).map_or(Ok(None), Err),
    }
}

/// One more use of the thread's Python state than there are, which keeps it alive.
struct KeptState(());

impl KeptState {
    #[allow(unsafe_code)]
    fn new(_attached: Python<'_>) -> Self {
        // SAFETY: the thread is attached, so this only counts up. The count goes down in `drop`.
        unsafe { ffi::PyGILState_Ensure() };
        Self(())
    }
}

impl Drop for KeptState {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // Without an interpreter there is no state left to give back.
        Python::try_attach(|_py| {
            // SAFETY: undoes the call in `new`. The count cannot reach zero here, since being
            // attached holds one too; the state goes away when that is given back.
            unsafe { ffi::PyGILState_Release(ffi::PyGILState_STATE::PyGILState_LOCKED) };
        });
    }
}

thread_local! {
    static KEPT: OnceCell<KeptState> = const { OnceCell::new() };
}

/// Stops a thread whose stack is being unwound.
struct Hang;

impl Drop for Hang {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

// As in `pyo3::ffi`, but allowed to unwind.
#[allow(unsafe_code)]
unsafe extern "C-unwind" {
    fn PyObject_Call(
        callable: *mut ffi::PyObject,
        args: *mut ffi::PyObject,
        kwargs: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
    fn PyIter_Check(object: *mut ffi::PyObject) -> c_int;
    fn PyIter_Next(iterator: *mut ffi::PyObject) -> *mut ffi::PyObject;
}
