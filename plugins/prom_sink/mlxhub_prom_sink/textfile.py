"""The metrics in a file, for node_exporter's textfile collector: where no port may be open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class TextFile:
    """Writes a registry into a file, and removes it at the end: what was, node_exporter would show for ever.

    Args:
        path: the file; each time it is replaced as a whole.
        registry: what to write.
    """

    def __init__(self, path: Path, registry: CollectorRegistry) -> None:
        self._path = path
        self._registry = registry

    def write(self) -> None:
        """Write it now. Raises OSError."""
        from prometheus_client import write_to_textfile

        try:
            write_to_textfile(str(self._path), self._registry)
        except OSError as error:
            raise OSError(f"textfile: {self._path} cannot be written ({error.strerror}); name another file") from None

    def remove(self) -> None:
        """Remove it, if it is there."""
        self._path.unlink(missing_ok=True)
