"""The options, and what is done with them. What each metric means is told in the README."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from mlxhub_core.metrics import MetricSink

from .server import MetricsServer, parse_listen, url_of
from .ticker import Ticker
from .tls import Tls

LISTEN = "127.0.0.1:9464"
"""9464 is the port that OpenTelemetry's exporters for Prometheus use."""

_NAMESPACE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class PrometheusSink(MetricSink):
    """Shows the models to Prometheus at ``http://<listen>/metrics``. Asks for no password: keep it on 127.0.0.1.

    Args:
        listen: where to listen, as host:port; an IPv6 address stands in brackets; port 0 takes any that is free.
            Default: 127.0.0.1:9464, or nowhere if there is a textfile.
        namespace: what the names of all metrics begin with.
        tls: answer by HTTPS, and only clients with a certificate if client_ca is there.
        textfile: write the metrics into this file, for node_exporter; its name must end in .prom.
        textfile_interval: seconds after which it is written again.
        process_metrics: whether to measure the memory, CPU, threads and open files of the models' processes.
        process_interval: seconds after which they are measured again.
    """

    def __init__(
        self,
        listen: str | None = None,
        namespace: str = "mlxhub",
        tls: Tls | None = None,
        textfile: Path | None = None,
        textfile_interval: Annotated[float, Interval(ge=0.1, le=3600)] = 15.0,
        process_metrics: bool = True,
        process_interval: Annotated[float, Interval(ge=0.1, le=3600)] = 5.0,
    ) -> None:
        super().__init__()
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"namespace must be letters, digits and _, and begin with no digit, not {namespace!r}")
        if textfile is not None and textfile.suffix != ".prom":
            raise ValueError(f"textfile must end in .prom, else node_exporter does not read it, not {textfile.name!r}")
        if tls is not None and textfile is not None and listen is None:
            raise ValueError("tls is for a port, and with textfile there is none; name one with listen, or drop tls")
        self._address = parse_listen(listen or LISTEN) if listen is not None or textfile is None else None
        self._namespace = namespace
        self._tls = tls
        self._textfile = textfile
        self._textfile_interval = textfile_interval
        self._process_interval = process_interval if process_metrics else None
        self._server: MetricsServer | None = None
        self._running = ExitStack()

    @property
    def where(self) -> str | None:  # type: ignore[override]  # read only
        """Where the metrics are: the URL, with the real port once it listens, or the file; None: not known yet."""
        if self._server is not None:
            return self._server.url
        if self._address is None:
            return str(self._textfile)
        return url_of(*self._address, secure=self._tls is not None) if self._address[1] else None

    @staticmethod
    def export(directory: Path) -> Sequence[Path]:
        """Write alerts, rules and dashboard into a directory; what was written."""
        from .export import export

        return export(directory)

    def open(self) -> None:
        """Listen, write the file, measure. Raises OSError if that is not possible now; the hub tries again."""
        with ExitStack() as begun:
            if self._address is not None:
                self._listen(*self._address, begun)
            if self._textfile is not None:
                self._write_to(self._textfile, begun)
            if self._process_interval is not None:
                self._measure_every(self._process_interval, begun)
            self._running = begun.pop_all()

    def close(self) -> None:
        """Stop listening, so that the port is free again, and remove the file."""
        self._running.close()

    def _listen(self, host: str, port: int, begun: ExitStack) -> None:
        # Imported here, as it takes a tenth of a second that only the sink's own thread should spend.
        from .pages import pages
        from .tls import TlsContext

        tls = TlsContext(self._tls) if self._tls is not None else None
        self._server = server = MetricsServer(host, port, pages(self, self._namespace), tls)
        begun.callback(setattr, self, "_server", None)
        begun.callback(server.close)

    def _write_to(self, path: Path, begun: ExitStack) -> None:
        from .pages import registry_of
        from .textfile import TextFile

        file = TextFile(path, registry_of(self, self._namespace, created=False))
        file.write()
        begun.callback(file.remove)
        begun.callback(Ticker("prom-textfile", self._textfile_interval, file.write).close)

    def _measure_every(self, seconds: float, begun: ExitStack) -> None:
        from mlxhub_core.metrics.usage import UsageMeter

        meter = UsageMeter()
        begun.callback(Ticker("prom-usage", seconds, lambda: self.set_usage(meter.measure(self.models()))).close)
