//! Why a value cannot travel, and where it stands.

use std::{borrow::Cow, fmt::Write};

use btlightning::LightningError;
use pyo3::prelude::*;

use crate::errors;

/// The result of encoding or decoding a value. The failure is boxed: it is rare, and results are
/// passed up through every level.
pub(super) type Outcome<T = ()> = Result<T, Box<Fail>>;

/// A failure on its way up; each level adds its place.
pub(super) struct Fail {
    reason: Reason,
    /// Innermost first, as they would be written behind `data`.
    places: Vec<String>,
}

enum Reason {
    /// Code of the value itself raised this.
    Raised(PyErr),
    /// What cannot be done, and why or what to do about it; the place goes in between.
    Value {
        what: String,
        advice: Cow<'static, str>,
    },
    /// The nesting has no end in sight at the container with this address.
    TooDeep { address: usize, cyclic: bool },
}

impl Fail {
    /// `what` reads well before "at data['a']".
    pub(super) fn new(what: impl Into<String>, advice: impl Into<Cow<'static, str>>) -> Box<Self> {
        Self::of(Reason::Value {
            what: what.into(),
            advice: advice.into(),
        })
    }

    /// More levels than the protocol allows at `container`.
    pub(super) fn too_deep(container: &Bound<'_, PyAny>) -> Box<Self> {
        Self::of(Reason::TooDeep {
            address: container.as_ptr() as usize,
            cyclic: false,
        })
    }

    fn of(reason: Reason) -> Box<Self> {
        Box::new(Self {
            reason,
            places: Vec::new(),
        })
    }

    /// Adds that the failure lies in an entry of a map.
    #[cold]
    pub(super) fn at_key(mut self: Box<Self>, key: &Bound<'_, PyAny>) -> Box<Self> {
        let shown = key.repr().map_or_else(
            |_| "?".to_owned(),
            |text| shortened(&text.to_string_lossy()),
        );
        self.places.push(format!("[{shown}]"));
        self
    }

    /// Adds that the failure lies in an item of an array.
    #[cold]
    pub(super) fn at_index(mut self: Box<Self>, index: usize) -> Box<Self> {
        self.places.push(format!("[{index}]"));
        self
    }

    /// Adds that the failure lies in a field of an object.
    #[cold]
    pub(super) fn at_field(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.places.push(format!(".{name}"));
        self
    }

    /// Says that the failure has come up to `container`: met again, it is its own content.
    #[cold]
    pub(super) fn within(mut self: Box<Self>, container: &Bound<'_, PyAny>) -> Box<Self> {
        if let Reason::TooDeep { address, cyclic } = &mut self.reason
            && *address == container.as_ptr() as usize
            && !self.places.is_empty()
        {
            *cyclic = true;
            self.places.clear();
        }
        self
    }

    #[cold]
    pub(super) fn into_error(self) -> PyErr {
        let place = self.place();
        let text = match self.reason {
            Reason::Raised(error) => return error,
            Reason::Value { what, advice } => format!("{what} at {place}: {advice}"),
            Reason::TooDeep { cyclic: true, .. } => {
                format!("cannot send {place}, which contains itself: break the cycle")
            }
            Reason::TooDeep { .. } => format!(
                "cannot send a value that nests deeper than {MAX_LEVELS} levels at {place}: \
                 flatten it"
            ),
        };
        errors::from_lightning(LightningError::Serialization(text))
    }

    fn place(&self) -> String {
        let mut text = String::from("data");
        for place in self.places.iter().rev().take(SHOWN_PLACES) {
            text.push_str(place);
        }
        if let Some(hidden) = self.places.len().checked_sub(SHOWN_PLACES + 1) {
            let _ = write!(text, "… ({} levels more)", hidden + 1);
        }
        text
    }
}

impl From<PyErr> for Box<Fail> {
    fn from(error: PyErr) -> Self {
        Fail::of(Reason::Raised(error))
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHOWN_KEY {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(SHOWN_KEY).collect();
    short.push('…');
    short
}

/// Deepest nesting of arrays and maps within one entry, as the protocol has it.
pub(super) const MAX_LEVELS: usize = 128;

/// Places shown of a path.
const SHOWN_PLACES: usize = 8;

/// Characters shown of a key.
const SHOWN_KEY: usize = 60;
