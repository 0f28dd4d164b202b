//! Handlers that are plain functions: they run on the server's pool of threads.

use std::{collections::HashMap, sync::Arc};

use btlightning::{LightningError, Payload, RequestContext, SynapseHandler};

use super::{
    callee::{Callee, answer},
    thread,
};

/// A function from a request to its answer.
pub(super) struct Function {
    callee: Callee,
}

impl Function {
    pub(super) fn new(callee: Callee) -> Arc<Self> {
        Arc::new(Self { callee })
    }
}

impl SynapseHandler for Function {
    fn handle(
        &self,
        _synapse_type: &str,
        _data: HashMap<String, rmpv::Value>,
    ) -> btlightning::Result<HashMap<String, rmpv::Value>> {
        Err(LightningError::handler(
            "a Python handler answers requests that are still encoded",
        ))
    }

    fn handle_request(
        &self,
        context: &RequestContext,
        data: Payload,
    ) -> btlightning::Result<Payload> {
        thread::attach(|py| {
            let result = self.callee.call(py, context, &data)?;
            answer(&result, context)
        })
        .unwrap_or_else(|| Err(finalized()))
    }

    fn takes_values(&self) -> bool {
        false
    }
}

/// What answers a request when there is no interpreter any more.
pub(super) fn finalized() -> LightningError {
    LightningError::handler("the Python interpreter is gone")
}
