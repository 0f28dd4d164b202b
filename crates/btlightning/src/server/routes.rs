//! Which handler serves which type.

use std::{collections::HashMap, sync::Arc};

use super::handler::{
    AsyncSynapseHandler, RequestHandler, StreamHandler, StreamingSynapseHandler, SynapseHandler,
};

/// The handlers by synapse type. Replaced as a whole when one is registered, so that requests read
/// it without a lock.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    by_type: HashMap<String, Slots>,
}

/// The handlers of one type; the first one set serves, in this order.
#[derive(Clone, Default)]
struct Slots {
    streaming: Option<Streaming>,
    asynchronous: Option<Asynchronous>,
    blocking: Option<Arc<dyn SynapseHandler>>,
}

#[derive(Clone)]
pub(crate) enum Streaming {
    Chunks(Arc<dyn StreamHandler>),
    Channel(Arc<dyn StreamingSynapseHandler>),
}

#[derive(Clone)]
pub(crate) enum Asynchronous {
    WithContext(Arc<dyn RequestHandler>),
    Plain(Arc<dyn AsyncSynapseHandler>),
}

/// What serves a request.
#[derive(Clone)]
pub(crate) enum Route {
    Streaming(Streaming),
    Asynchronous(Asynchronous),
    Blocking(Arc<dyn SynapseHandler>),
}

impl Routes {
    /// Finds the handler of a type: streaming before async before blocking.
    pub(crate) fn find(&self, synapse_type: &str) -> Option<Route> {
        let slots = self.by_type.get(synapse_type)?;
        if let Some(handler) = &slots.streaming {
            return Some(Route::Streaming(handler.clone()));
        }
        if let Some(handler) = &slots.asynchronous {
            return Some(Route::Asynchronous(handler.clone()));
        }
        slots.blocking.clone().map(Route::Blocking)
    }

    /// Whether the handler of a type gets a map of dynamic values.
    pub(crate) fn takes_values(&self, synapse_type: &str) -> bool {
        match self.find(synapse_type) {
            Some(Route::Streaming(Streaming::Channel(_))) => true,
            Some(Route::Asynchronous(Asynchronous::Plain(handler))) => handler.takes_values(),
            Some(Route::Blocking(handler)) => handler.takes_values(),
            _ => false,
        }
    }

    /// Returns the table with one more handler, which takes the place of one of its kind.
    pub(crate) fn with(&self, synapse_type: String, route: Route) -> Self {
        let mut routes = self.clone();
        let slots = routes.by_type.entry(synapse_type).or_default();
        match route {
            Route::Streaming(handler) => slots.streaming = Some(handler),
            Route::Asynchronous(handler) => slots.asynchronous = Some(handler),
            Route::Blocking(handler) => slots.blocking = Some(handler),
        }
        routes
    }
}
