//! What the server says where no handler speaks. Peers know these texts.

/// No hotkey is authenticated on the connection.
pub(crate) const AUTHENTICATION_FAILED: &str = "authentication failed";
/// The request does not decode.
pub(crate) const INVALID_REQUEST: &str = "invalid request format";
/// No handler is registered for the type.
pub(crate) const UNRECOGNIZED_TYPE: &str = "unrecognized synapse type";
/// The handler failed or panicked; why stays here.
pub(crate) const PROCESSING_FAILED: &str = "request processing failed";
/// The handler took longer than it may.
pub(crate) const HANDLER_TIMED_OUT: &str = "handler timed out";
/// A streaming handler failed or panicked; why stays here.
pub(crate) const STREAM_FAILED: &str = "stream processing failed";
/// The handler's answer cannot be encoded, or is larger than a frame may be.
pub(crate) const SERIALIZATION_FAILED: &str = "internal serialization error";
/// The server is shutting down and has not begun the request.
pub(crate) const SHUTTING_DOWN: &str = "server shutting down";
/// The caller gave up; it does not look at this any more.
pub(crate) const CANCELLED: &str = "cancelled";
/// The time that the caller gave is over; its own clock says the same.
pub(crate) const DEADLINE_EXCEEDED: &str = "deadline exceeded";
/// The type is served in chunks, and was queried as if it were not.
pub(crate) const STREAMING_ONLY: &str = "streaming synapse type queried without a stream";
