//! Who signs handshakes: keys in memory, or Python.

use std::sync::{Arc, PoisonError, RwLock};

use btlightning::{LightningError, Result, Signer, Sr25519Signer};
use pyo3::{prelude::*, types::PyBytes};

use super::settings::config_error;

/// A place for a signer, which may be filled after the client was made.
#[derive(Clone, Default)]
pub(super) struct SignerSlot(Arc<RwLock<Option<Arc<dyn Signer>>>>);

impl SignerSlot {
    pub(super) fn set(&self, signer: impl Signer + 'static) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signer));
    }

    /// Returns the signer.
    ///
    /// # Errors
    ///
    /// [`LightningError::Signing`] when there is none yet.
    pub(super) fn signer(&self) -> Result<Arc<dyn Signer>> {
        let signer = self.0.read().unwrap_or_else(PoisonError::into_inner);
        signer
            .clone()
            .ok_or_else(|| LightningError::Signing("No signer configured".into()))
    }
}

impl Signer for SignerSlot {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.signer()?.sign(message)
    }
}

/// A Python function from message to signature.
pub(crate) struct PythonSigner {
    callback: Py<PyAny>,
}

impl PythonSigner {
    pub(crate) fn new(callback: Bound<'_, PyAny>) -> PyResult<Self> {
        if !callback.is_callable() {
            return Err(config_error(
                "the signer must be callable, from bytes to bytes".into(),
            ));
        }
        Ok(Self {
            callback: callback.unbind(),
        })
    }
}

impl Signer for PythonSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let signed = Python::try_attach(|py| {
            let signature = self.callback.bind(py).call1((PyBytes::new(py, message),))?;
            seed_bytes(&signature)
        });
        match signed {
            Some(Ok(signature)) => Ok(signature),
            Some(Err(error)) => Err(LightningError::Signing(error.to_string())),
            None => Err(LightningError::Signing("the interpreter is exiting".into())),
        }
    }
}

/// Makes a signer of a seed: bytes-like, or a sequence of numbers.
///
/// # Errors
///
/// A `LightningConfigError` unless it has 32 bytes. The seed is not in the text.
pub(crate) fn from_seed(seed: &Bound<'_, PyAny>) -> PyResult<Sr25519Signer> {
    let bytes = seed_bytes(seed)?;
    let seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
        config_error(format!(
            "the seed of a key pair has 32 bytes, this one has {}",
            bytes.len()
        ))
    })?;
    Ok(Sr25519Signer::from_seed(seed))
}

fn seed_bytes(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    value.extract()
}
