"""The SDK's own log messages of one thread, kept back: it writes what goes wrong to stderr, and we raise it."""

from __future__ import annotations

import logging
import threading


class Hushed(logging.Filter):
    """Keeps back what the loggers of OpenTelemetry say on the thread that made it, from `listen` until `close`.

    A program that has a hub in it may use OpenTelemetry itself: on its threads nothing changes.

    Attributes:
        last: the last words that were kept back.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()
        self.last = ""
        self._loggers: list[logging.Logger] = []

    def listen(self) -> None:
        """Begin with all loggers that there are by now. To be called again when more was imported."""
        # A filter of a logger is not one of those below it.
        names = [name for name in logging.root.manager.loggerDict if f"{name}.".startswith("opentelemetry.")]
        self._loggers = [logging.getLogger(name) for name in names]
        for logger in self._loggers:
            logger.addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record may be shown."""
        if threading.get_ident() != self._thread:
            return True
        self.last = record.getMessage()
        return False

    def close(self) -> None:
        """Keep nothing back any more."""
        for logger in self._loggers:
            logger.removeFilter(self)
