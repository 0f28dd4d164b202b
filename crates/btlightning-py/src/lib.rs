//! The compiled half of the Python package `btlightning`.
//!
//! - `client`, `server`: the classes.
//! - `values`: Python values to MessagePack and back, with no tree in between.
//! - `bridge`: results and requests into an asyncio loop, in batches.
//! - `runtime`: the I/O threads, and waiting for them without the GIL.
//! - `keys`: the address of a seed.
//! - `errors`: the tree of exceptions.

mod bridge;
mod client;
mod errors;
mod keys;
mod runtime;
mod server;
mod values;

use pyo3::prelude::*;

/// The module `btlightning._native`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    runtime::register(module)?;
    errors::register(module)?;
    keys::register(module)?;
    values::register(module)?;
    bridge::register(module)?;
    client::register(module)?;
    server::register(module)
}
