"""The exceptions of btlightning.

Every one is a `LightningError`, and also the builtin exception that a caller would expect:

```text
LightningError
├── LightningConnectionError   ConnectionError   dialling, authenticating, sending, waiting
│   ├── HandshakeError                           the peer is not who it should be, or refused us
│   └── TransportError                           the connection failed or was lost
│       └── QueryTimeoutError  TimeoutError      no answer in time
├── LightningConfigError       ValueError        a setting or an argument that cannot be used
├── SerializationError         ValueError        a value that cannot be sent or read
├── MissingKeyError            KeyError          an axon or a request lacks a key
├── SigningError               RuntimeError      the hotkey could not sign
├── HandlerError               RuntimeError      the miner answered that it failed
└── StreamError                RuntimeError      a stream of chunks broke off
```

Each has three attributes that a program can decide by: `phase` (`"dial"`, `"handshake"`, `"send"`,
`"wait"` or `None`), `peer` (`"HOTKEY at ip:port"` or `None`) and `retry_safe`, which is true when
the handler has certainly not run, so that the same request cannot be executed twice.
"""

from btlightning._native import (
    HandlerError,
    HandshakeError,
    LightningConfigError,
    LightningConnectionError,
    LightningError,
    MissingKeyError,
    QueryTimeoutError,
    SerializationError,
    SigningError,
    StreamError,
    TransportError,
)

__all__ = [
    "HandlerError",
    "HandshakeError",
    "LightningConfigError",
    "LightningConnectionError",
    "LightningError",
    "MissingKeyError",
    "QueryTimeoutError",
    "SerializationError",
    "SigningError",
    "StreamError",
    "TransportError",
]
