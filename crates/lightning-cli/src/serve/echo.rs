//! The handler that answers with what it was sent.

use async_trait::async_trait;
use btlightning::{Payload, RequestContext, RequestHandler, Result};

/// Returns the request's data, still encoded.
#[derive(Debug)]
pub(crate) struct Echo;

#[async_trait]
impl RequestHandler for Echo {
    async fn handle(&self, _context: RequestContext, data: Payload) -> Result<Payload> {
        Ok(data)
    }
}
