"""What either end of a call says about itself."""

from pydantic import BaseModel, ConfigDict


class TerminalInfo(BaseModel):
    """One end of a call: its outcome there, its address and its identity.

    Every field is `None` until it is known. Numbers may be given as text.
    """

    model_config = ConfigDict(validate_assignment=True)

    status_code: int | None = None
    status_message: str | None = None
    process_time: float | None = None
    """Seconds that the call took at this end."""
    ip: str | None = None
    port: int | None = None
    version: int | None = None
    nonce: int | None = None
    """Nanoseconds since 1970 at which this end began."""
    uuid: str | None = None
    hotkey: str | None = None
    """SS58 address. At the axon, the dendrite's is the one that the connection has proven."""
    signature: str | None = None
    """Always `None`: the connection is signed, its requests are not."""
