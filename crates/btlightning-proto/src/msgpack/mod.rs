//! MessagePack as this protocol uses it ([specification](https://github.com/msgpack/msgpack)).

mod scan;
mod ser;

pub(crate) use scan::Scanner;
pub use scan::{Summary, validate};
pub use ser::to_writer;
