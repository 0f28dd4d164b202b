//! The tree of exceptions: each is also the builtin that a user would catch, and says in which
//! phase a call failed, with which peer, and whether it may be made again.

use btlightning::{CallError, LightningError, Phase};
use pyo3::{
    PyErrArguments,
    exceptions::{
        PyConnectionError, PyException, PyKeyError, PyRuntimeError, PyTimeoutError, PyValueError,
    },
    prelude::*,
    sync::PyOnceLock,
    types::{PyDict, PyTuple, PyType},
};

/// Makes the exception for a failed call, in the words of the published package.
///
/// Needs no interpreter: the Python object is made when the error is raised or looked at.
pub(crate) fn from_call(error: CallError) -> PyErr {
    let phase = error.phase();
    let mut details = Details {
        class: Class::Lightning,
        text: String::new(),
        phase: Some(name_of(phase)),
        peer: Some(format!("{} at {}", error.hotkey(), error.addr())),
        retry_safe: error.is_retry_safe(),
    };
    let timeout = error.is_timeout() && matches!(phase, Phase::Send | Phase::Wait);
    let error = match (timeout, phase) {
        (true, Phase::Wait) => LightningError::Transport(QUERY_TIMEOUT.into()),
        _ => error.into(),
    };
    details.class = if timeout {
        Class::QueryTimeout
    } else {
        Class::of(&error)
    };
    details.text = error.to_string();
    details.into_error()
}

/// Makes the exception for an error that says no more than its subject and its text.
///
/// Needs no interpreter, see [`from_call`].
pub(crate) fn from_lightning(error: LightningError) -> PyErr {
    let class = Class::of(&error);
    let phase = match &error {
        LightningError::Connection(_) => Some("dial"),
        LightningError::Handshake(_) => Some("handshake"),
        LightningError::Transport(text) if text == QUERY_TIMEOUT => Some("wait"),
        _ => None,
    };
    Details {
        class,
        text: error.to_string(),
        phase,
        peer: None,
        retry_safe: matches!(phase, Some("dial" | "handshake")),
    }
    .into_error()
}

/// Makes the exception for a mapping that lacks the entry `key`.
pub(crate) fn missing_key(key: &str) -> PyErr {
    Details {
        class: Class::MissingKey,
        text: format!("Missing '{key}' field"),
        phase: None,
        peer: None,
        retry_safe: false,
    }
    .into_error()
}

/// Adds the exception types to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for (row, class) in TREE.iter().zip(types(py)?) {
        module.add(row.name, class.bind(py))?;
    }
    Ok(())
}

/// One exception type; the number is its row in [`TREE`].
#[derive(Debug, Clone, Copy)]
enum Class {
    Lightning,
    Connection,
    Handshake,
    Transport,
    QueryTimeout,
    Config,
    Serialization,
    MissingKey,
    Signing,
    Handler,
    Stream,
}

impl Class {
    fn of(error: &LightningError) -> Self {
        match error {
            LightningError::Connection(_) => Self::Connection,
            LightningError::Handshake(_) => Self::Handshake,
            LightningError::Transport(text) if text == QUERY_TIMEOUT => Self::QueryTimeout,
            LightningError::Transport(_) => Self::Transport,
            LightningError::Config(_) => Self::Config,
            LightningError::Serialization(_) => Self::Serialization,
            LightningError::Signing(_) => Self::Signing,
            LightningError::Handler(_) => Self::Handler,
            LightningError::Stream(_) => Self::Stream,
        }
    }
}

/// What an exception will be made of.
struct Details {
    class: Class,
    text: String,
    phase: Option<&'static str>,
    peer: Option<String>,
    retry_safe: bool,
}

impl Details {
    /// The declared type is only the root: raising an instance of a subclass keeps its type.
    fn into_error(self) -> PyErr {
        PyException::new_err(self)
    }

    fn instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let exception = types(py)?[self.class as usize]
            .bind(py)
            .call1((self.text.as_str(),))?;
        if let Some(phase) = self.phase {
            exception.setattr("phase", phase)?;
        }
        if let Some(peer) = &self.peer {
            exception.setattr("peer", peer)?;
        }
        if self.retry_safe {
            exception.setattr("retry_safe", true)?;
        }
        Ok(exception)
    }
}

impl PyErrArguments for Details {
    fn arguments(self, py: Python<'_>) -> Py<PyAny> {
        match self.instance(py) {
            Ok(exception) => exception.unbind(),
            Err(error) => error.into_value(py).into_any(),
        }
    }
}

/// An exception type: its name, its document string, its parent, and the builtin that it is too.
struct Row {
    name: &'static str,
    doc: &'static str,
    parent: Option<Class>,
    builtin: for<'py> fn(Python<'py>) -> Bound<'py, PyType>,
}

const TREE: [Row; 11] = [
    Row {
        name: "LightningError",
        doc: "What every error of this package is.\n\n\
              `phase` is \"dial\", \"handshake\", \"send\" or \"wait\" where a call failed, `peer` \
              is \"HOTKEY at ip:port\".\n\
              `retry_safe` says that the handler has certainly not run, so that the same request \
              cannot be executed twice.",
        parent: None,
        builtin: |py| py.get_type::<PyException>(),
    },
    Row {
        name: "LightningConnectionError",
        doc: "A connection could not be made or was lost.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyConnectionError>(),
    },
    Row {
        name: "HandshakeError",
        doc: "Validator and miner could not authenticate each other.",
        parent: Some(Class::Connection),
        builtin: |py| py.get_type::<PyException>(),
    },
    Row {
        name: "TransportError",
        doc: "A message could not be sent or received.",
        parent: Some(Class::Connection),
        builtin: |py| py.get_type::<PyException>(),
    },
    Row {
        name: "QueryTimeoutError",
        doc: "The answer did not come in time.",
        parent: Some(Class::Transport),
        builtin: |py| py.get_type::<PyTimeoutError>(),
    },
    Row {
        name: "LightningConfigError",
        doc: "A setting is invalid; the text names it.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyValueError>(),
    },
    Row {
        name: "SerializationError",
        doc: "A value could not be turned into MessagePack or back; the text names its place.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyValueError>(),
    },
    Row {
        name: "MissingKeyError",
        doc: "A mapping lacks an entry that is needed; the text names it.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyKeyError>(),
    },
    Row {
        name: "SigningError",
        doc: "The hotkey could not sign.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyRuntimeError>(),
    },
    Row {
        name: "HandlerError",
        doc: "A handler failed.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyRuntimeError>(),
    },
    Row {
        name: "StreamError",
        doc: "A stream of chunks broke off.",
        parent: Some(Class::Lightning),
        builtin: |py| py.get_type::<PyRuntimeError>(),
    },
];

/// The types, in the order of [`TREE`].
fn types(py: Python<'_>) -> PyResult<&'static Vec<Py<PyType>>> {
    static TYPES: PyOnceLock<Vec<Py<PyType>>> = PyOnceLock::new();
    TYPES.get_or_try_init(py, || {
        let mut made: Vec<Py<PyType>> = Vec::with_capacity(TREE.len());
        for row in &TREE {
            let class = make(py, row, &made)?;
            made.push(class);
        }
        Ok(made)
    })
}

fn make(py: Python<'_>, row: &Row, made: &[Py<PyType>]) -> PyResult<Py<PyType>> {
    let namespace = PyDict::new(py);
    // Where the users find it, so that tracebacks and pickles say so.
    namespace.set_item("__module__", "btlightning")?;
    namespace.set_item("__doc__", row.doc)?;
    let builtin = (row.builtin)(py);
    let bases = match row.parent {
        None => {
            namespace.set_item("phase", py.None())?;
            namespace.set_item("peer", py.None())?;
            namespace.set_item("retry_safe", false)?;
            PyTuple::new(py, [builtin])?
        }
        Some(parent) => {
            let parent = made[parent as usize].bind(py);
            if parent.is_subclass(&builtin)? {
                PyTuple::new(py, [parent])?
            } else {
                PyTuple::new(py, [parent, &builtin])?
            }
        }
    };
    let class = py
        .get_type::<PyType>()
        .call1((row.name, bases, namespace))?;
    Ok(class.cast_into::<PyType>()?.unbind())
}

fn name_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Dial => "dial",
        Phase::Handshake => "handshake",
        Phase::Send => "send",
        Phase::Wait => "wait",
    }
}

/// The published package's text for a query whose time ran out; its users match it.
const QUERY_TIMEOUT: &str = "query timed out";
