"""The request that becomes its own answer."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from btlightning.subnet.terminal import TerminalInfo


class Synapse(BaseModel):
    """Fields that a dendrite sends to an axon, and that come back filled in.

    Subclasses add the fields; the class's name is the type under which an axon serves it. What is
    defined here describes the call, stays at either end, and is never read from a message.
    """

    model_config = ConfigDict(validate_assignment=True)

    name: str | None = Field(default=None, repr=False)
    timeout: float | None = Field(default=12.0, repr=False)
    """Seconds that the dendrite waits for the answer."""
    total_size: int | None = Field(default=0, repr=False)
    header_size: int | None = Field(default=0, repr=False)
    dendrite: TerminalInfo | None = Field(default_factory=TerminalInfo, repr=False)
    axon: TerminalInfo | None = Field(default_factory=TerminalInfo, repr=False)
    computed_body_hash: str | None = Field(default="", frozen=True, repr=False)
    required_hash_fields: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _name_after_class(cls, values: Any) -> Any:
        return {**values, "name": cls.__name__} if isinstance(values, dict) else values

    def deserialize(self) -> Any:
        """Turns the answer into what the caller wants; by default the synapse itself."""
        return self

    @property
    def is_success(self) -> bool:
        """Whether the call was answered with 200."""
        return self.dendrite is not None and self.dendrite.status_code == 200

    @property
    def is_failure(self) -> bool:
        """Whether the call was not answered with 200; so too before it was made."""
        return self.dendrite is not None and self.dendrite.status_code != 200

    @property
    def is_timeout(self) -> bool:
        """Whether no answer came in time (408)."""
        return self.dendrite is not None and self.dendrite.status_code == 408

    @property
    def is_blacklist(self) -> bool:
        """Whether the axon refused this caller (403)."""
        return self.dendrite is not None and self.dendrite.status_code == 403

    @property
    def failed_verification(self) -> bool:
        """Whether the axon's `verify_fn` refused the call (401)."""
        return self.dendrite is not None and self.dendrite.status_code == 401
