"""Orders keepers, and finds those that a former hub has left."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlxhub_core.errors import HubError
from mlxhub_core.keepers.connection import Connection, meet
from mlxhub_core.keepers.kept import Kept
from mlxhub_core.keepers.remains import abandon, end_keeper, remove
from mlxhub_core.keepers.words import exit_of, is_readable, order_text
from mlxhub_core.keepers.zygote import Zygote
from mlxhub_core.place import is_scarcity, make_private
from mlxhub_core.process import Listener, Order, Process, Survivor

STEM = 20
"""Characters of a model's name in the names of a run's files: the path of a socket must be short."""


class Keepers:
    """Starts processes under keepers; see `process.ProcessFactory`.

    Args:
        directory: where the files of the runs are; made when it is needed. Two hubs must not share it.
        label: what `ps` shows of the keepers, beside their program.
        report: gets one line when something is wrong with a keeper.
    """

    def __init__(self, directory: Path, label: str, report: Callable[[str], None]) -> None:
        self._directory = directory
        self._zygote = Zygote(label)
        self._report = report
        self._ended: dict[str, Kept] = {}

    def prepare(self) -> None:
        """See `process.ProcessFactory`."""
        with contextlib.suppress(OSError):
            self._zygote.prepare()

    def start(self, order: Order, listener: Listener) -> Process:
        """See `process.ProcessFactory`."""
        place = self._directory / f"{order.model[:STEM]}-{order.run_id[:8]}"
        try:
            connection, state = self._ordered(order, place)
        except FileNotFoundError:
            if self._directory.is_dir():
                raise  # It is the program that is not there.
            make_private(self._directory)
            connection, state = self._ordered(order, place)
        self.prepare()
        kept = Kept(connection, state, place, self._report, self._ended)
        try:
            kept.listen(listener)
        except RuntimeError as error:  # no thread can be started: nobody would hear of its end
            connection.close()
            abandon(place)
            raise OSError(errno.EAGAIN, str(error)) from None
        return kept

    def survivors(self) -> Sequence[Survivor]:
        """See `process.ProcessFactory`. Removes what was left by those of which nothing more can be told."""
        make_private(self._directory)
        self.prepare()
        places = sorted(
            {file.with_suffix("") for ending in ("lock", "json") for file in self._directory.glob(f"*.{ending}")}
        )
        try:
            found = [self._survivor(place) for place in places]
        except OSError as error:
            raise HubError(
                f"the models that a former hub has left cannot be looked at ({error.strerror}); they go on; raise the limit"
                " (`ulimit -n` for open files, `ulimit -u` for processes), and try again"
            ) from None
        return [survivor for survivor in found if survivor is not None]

    def forget(self, run_id: str) -> None:
        """See `process.ProcessFactory`."""
        if (kept := self._ended.pop(run_id, None)) is not None:
            kept.wait()
        # By any file of it: a hub may have been killed while it removed them.
        for place in {
            file.with_name(file.name.partition(".")[0]) for file in self._directory.glob(f"*-{run_id[:8]}.*")
        }:
            remove(place)

    def close(self) -> None:
        """See `process.ProcessFactory`. All ends that were told are taken to have been heard."""
        for run_id in list(self._ended):
            self.forget(run_id)
        self._zygote.close()

    def _ordered(self, order: Order, place: Path) -> tuple[Connection, dict[str, Any]]:
        text = order_text(order, place)
        for _ in range(2):  # The zygote may have been killed, and that shows only now.
            with contextlib.suppress(ConnectionError, EOFError):
                connection = Connection(self._zygote.keeper())
                try:
                    return connection, connection.order(text)
                except TimeoutError:
                    connection.close()
                    self._zygote.close()
                    abandon(place)
                    raise OSError(errno.ETIMEDOUT, "its keeper does not answer") from None
                except (ConnectionError, EOFError):
                    connection.close()
                    self._zygote.close()  # If that is what has ended, it may look as if it had not for a moment.
                    abandon(place)  # It may have ended just after it had started the process.
                    raise
                except BaseException:
                    connection.close()
                    raise
        raise OSError(errno.ECHILD, "its keeper ended at once")

    def _survivor(self, place: Path) -> Survivor | None:
        try:
            met = meet(place)
        except (OSError, EOFError, ValueError) as error:
            if is_scarcity(error):
                raise
            self._report(f"{place}: a keeper of a former hub does not answer ({error}); its model is ended")
            met = None
        connection, state = met or (None, end_keeper(place))
        if not is_readable(state):
            if connection is None:
                self._report(f"{place}.json cannot be read; what a former hub ran there is not known")
                remove(place)
            else:
                connection.close()
                self._report(f"{place}: a keeper of another version of mlxhub is left alone; to end its model, end it")
            return None
        kept = Kept(connection, state, place, self._report, self._ended)
        ended = exit_of(state, is_kept=connection is not None)
        return Survivor(
            model=state["model"],
            run_id=state["run"],
            pid=state["pid"],
            started_at=state["started_at"],
            log=Path(state["log"]),
            log_begin=state["log_begin"],
            record=state["record"],
            asked=state["asked"],
            note=state["note"] or {},
            exit=ended,
            attach=lambda listener: kept.attached(listener, has_ended=ended is not None),
        )
