//! What the Python half asks of a key.

use pyo3::prelude::*;

use crate::client::signer;

/// Returns the SS58 address of the sr25519 key made from 32 bytes.
#[pyfunction]
fn hotkey_from_seed(seed: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(signer::from_seed(seed)?.hotkey())
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(hotkey_from_seed, module)?)
}
