//! What a server asks Python for: signatures, and who may connect.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use btlightning::{LightningError, Signer, ValidatorPermitResolver};
use pyo3::prelude::*;

use super::callee;

/// A server's key and resolver, which may be set at any time.
#[derive(Default)]
pub(super) struct Hooks {
    signer: RwLock<Option<Arc<dyn Signer>>>,
    resolver: RwLock<Option<Arc<Py<PyAny>>>>,
}

impl Hooks {
    pub(super) fn set_signer(&self, signer: impl Signer + 'static) {
        *self.signer.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signer));
    }

    pub(super) fn set_resolver(&self, resolver: Py<PyAny>) {
        let resolver = Some(Arc::new(resolver));
        *self
            .resolver
            .write()
            .unwrap_or_else(PoisonError::into_inner) = resolver;
    }

    pub(super) fn has_resolver(&self) -> bool {
        self.resolver().is_some()
    }

    fn resolver(&self) -> Option<Arc<Py<PyAny>>> {
        self.resolver
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The key a server has at the time of a handshake.
pub(super) struct CurrentSigner(pub(super) Arc<Hooks>);

impl Signer for CurrentSigner {
    fn sign(&self, message: &[u8]) -> btlightning::Result<Vec<u8>> {
        let signer = self
            .0
            .signer
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let signed = match signer {
            Some(signer) => signer.sign(message),
            None => Err(LightningError::Signing(
                "no key: call set_miner_keypair, set_miner_wallet or set_python_signer".into(),
            )),
        };
        if let Err(error) = &signed {
            // The caller is told nothing, and without a signature nobody can connect.
            Python::try_attach(|py| {
                callee::log(
                    py,
                    "the miner's hotkey cannot sign: %s",
                    &error.to_string(),
                    None,
                );
            });
        }
        signed
    }
}

/// The resolver a server has at the time it asks.
pub(super) struct CurrentResolver(pub(super) Arc<Hooks>);

impl ValidatorPermitResolver for CurrentResolver {
    fn resolve_permitted_validators(&self) -> btlightning::Result<HashSet<String>> {
        let resolver = self
            .0
            .resolver()
            .ok_or_else(|| LightningError::Config(NO_RESOLVER.into()))?;
        Python::try_attach(|py| {
            resolve(resolver.bind(py)).map_err(|error| {
                callee::log(py, "%s failed", RESOLVER, Some(&error));
                LightningError::handler(format_args!("{RESOLVER} failed"))
            })
        })
        .unwrap_or_else(|| Err(super::blocking::finalized()))
    }
}

fn resolve(resolver: &Bound<'_, PyAny>) -> PyResult<HashSet<String>> {
    resolver
        .call0()?
        .try_iter()?
        .map(|hotkey| hotkey?.extract::<String>())
        .collect()
}

/// What a server says that must ask a resolver and has none.
pub(super) const NO_RESOLVER: &str =
    "require_validator_permit needs a resolver: call set_validator_permit_resolver first";

const RESOLVER: &str = "the validator permit resolver";
