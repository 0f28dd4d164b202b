"""A logger with the methods of bittensor's, for code that logs through it."""

import logging as standard
from typing import Any, Final

TRACE: Final = 5
"""The level below `DEBUG`."""

SUCCESS: Final = 21
"""The level just above `INFO`."""


class SubnetLogger:
    """Logs to the standard library's logger `btlightning.subnet`.

    Whether and where lines appear is for the standard library's configuration to say. Every
    method takes a message, and texts to put before and after it.
    """

    def __init__(self) -> None:
        """Names the two levels that the standard library does not have."""
        standard.addLevelName(TRACE, "TRACE")
        standard.addLevelName(SUCCESS, "SUCCESS")
        self._logger = standard.getLogger("btlightning.subnet")

    def trace(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `TRACE`."""
        self._log(TRACE, msg, prefix, suffix, args)

    def debug(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `DEBUG`."""
        self._log(standard.DEBUG, msg, prefix, suffix, args)

    def info(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `INFO`."""
        self._log(standard.INFO, msg, prefix, suffix, args)

    def success(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `SUCCESS`."""
        self._log(SUCCESS, msg, prefix, suffix, args)

    def warning(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `WARNING`."""
        self._log(standard.WARNING, msg, prefix, suffix, args)

    def error(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `ERROR`."""
        self._log(standard.ERROR, msg, prefix, suffix, args)

    def critical(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `CRITICAL`."""
        self._log(standard.CRITICAL, msg, prefix, suffix, args)

    def exception(self, msg: Any = "", prefix: Any = "", suffix: Any = "", *args: Any) -> None:
        """Logs at the level `ERROR`, with the exception that is being handled."""
        self._log(standard.ERROR, msg, prefix, suffix, args, exc_info=True)

    def set_trace(self, on: bool = True) -> None:
        """Lets lines from `TRACE` on through, or stops doing so."""
        self._logger.setLevel(TRACE if on else standard.NOTSET)

    def set_debug(self, on: bool = True) -> None:
        """Lets lines from `DEBUG` on through, or stops doing so."""
        self._logger.setLevel(standard.DEBUG if on else standard.NOTSET)

    def set_info(self, on: bool = True) -> None:
        """Lets lines from `INFO` on through, or stops doing so."""
        self._logger.setLevel(standard.INFO if on else standard.NOTSET)

    def set_warning(self, on: bool = True) -> None:
        """Lets lines from `WARNING` on through, or stops doing so."""
        self._logger.setLevel(standard.WARNING if on else standard.NOTSET)

    def _log(
        self,
        level: int,
        message: Any,
        prefix: Any,
        suffix: Any,
        args: tuple[Any, ...],
        exc_info: bool = False,
    ) -> None:
        if self._logger.isEnabledFor(level):
            text = " - ".join(str(part) for part in (prefix, message, suffix) if part != "")
            # The frames to leave out: this method and the one that was called.
            self._logger.log(level, text, *args, exc_info=exc_info, stacklevel=3)


logging = SubnetLogger()
"""What `bittensor.logging` is used for."""
