"""Many knees at once: a function over items in processes of their own, one bad item at a time.

A worker that dies (out of memory, a crash in native code) costs its own item only; the item is
tried once more, alone in a fresh process, before it is given up. Errors come back as values.
What an unexpected exception says may repeat what a header held, so only its type and the line of
our code it came from leave the worker.
"""

import logging
import multiprocessing
import os
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from imaging.errors import BadInputError

Engine = Literal["serial", "processes"]
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_ATTEMPTS = 2


class WorkerError(Exception):
    """An unexpected exception in a worker.

    Attributes:
        type_name: of the exception; its message is left behind.
        where: the innermost line of kneelake's code, such as `imaging/dicom.py:120`.
    """

    def __init__(self, type_name: str, where: str) -> None:
        self.type_name = type_name
        self.where = where
        super().__init__(f"{type_name} at {where}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.type_name, self.where)


class WorkerDiedError(WorkerError):
    """The process of an item ended without an answer, twice."""

    def __init__(self, exit_code: int | None) -> None:
        self.exit_code = exit_code
        super().__init__("WorkerDiedError", f"exit code {exit_code}")

    def __reduce__(self) -> tuple[type, tuple[int | None]]:  # type: ignore[override]
        return type(self), (self.exit_code,)


@dataclass(frozen=True)
class Cluster:
    """Where a function runs over many items.

    Attributes:
        engine: 'serial' in this process, 'processes' in up to `workers` others.
        workers: processes at most; each holds one item at a time.
    """

    engine: Engine = "serial"
    workers: int = 1

    def map(
        self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]
    ) -> Iterator[tuple[ItemT, ResultT | Exception]]:
        """Each item with its result, or with a BadInputError or WorkerError, as they complete.

        No process is started while there is no item. Items are drawn from the iterable as
        workers become free.

        Args:
            function: a module-level function; it and the items are pickled.
            items: what to work on.
        """
        if self.engine == "serial":
            for item in items:
                with _quiet():
                    result = _attempt(function, item)
                yield item, result
        else:
            yield from _Pool(function, self.workers).run(items)


def _attempt(function: Callable[[ItemT], ResultT], item: ItemT) -> ResultT | Exception:
    try:
        return function(item)
    except BadInputError as error:
        return error
    except Exception as error:
        return WorkerError(type(error).__name__, _innermost_own_line(error))


def _innermost_own_line(error: Exception) -> str:
    root = Path(__file__).resolve().parents[1]
    own = [
        f"{Path(frame.filename).relative_to(root).as_posix()}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(root)
        and "site-packages" not in Path(frame.filename).parts
    ]
    return own[-1] if own else "outside kneelake"


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries warn and log with values of the file they read."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """A worker: answers items until its coordinator hangs up."""
    with _quiet():
        while True:
            try:
                item = connection.recv()
            except EOFError:
                return
            connection.send(_attempt(function, item))


@dataclass(eq=False)
class _Worker(Generic[ItemT]):
    process: SpawnProcess
    connection: Connection
    item: ItemT
    attempt: int


class _Pool(Generic[ItemT, ResultT]):
    """The workers of one call of `map`."""

    def __init__(self, function: Callable[[ItemT], ResultT], workers: int) -> None:
        self._function = function
        self._workers = max(1, workers)
        self._busy: list[_Worker[ItemT]] = []
        self._idle: list[tuple[SpawnProcess, Connection]] = []

    def run(self, items: Iterable[ItemT]) -> Iterator[tuple[ItemT, ResultT | Exception]]:
        waiting = iter(items)
        again: deque[ItemT] = deque()
        exhausted = False
        try:
            while True:
                while not exhausted and len(self._busy) < self._workers:
                    try:
                        self._give(next(waiting), attempt=1)
                    except StopIteration:
                        exhausted = True
                if exhausted and not self._busy and again:
                    # Alone: what killed it may have been the others' memory.
                    self._give(again.popleft(), attempt=_ATTEMPTS)
                if not self._busy:
                    return
                for worker in self._answered():
                    self._busy.remove(worker)
                    result = self._result(worker)
                    if isinstance(result, WorkerDiedError) and worker.attempt < _ATTEMPTS:
                        again.append(worker.item)
                    else:
                        yield worker.item, result
        finally:
            self._close()

    def _give(self, item: ItemT, attempt: int) -> None:
        while self._idle:
            process, connection = self._idle.pop()
            try:
                connection.send(item)
            except OSError:
                # Killed while it waited, for its memory perhaps: the item has not suffered.
                connection.close()
                process.join()
            else:
                self._busy.append(_Worker(process, connection, item, attempt))
                return
        process, connection = self._start()
        connection.send(item)
        self._busy.append(_Worker(process, connection, item, attempt))

    def _start(self) -> tuple[SpawnProcess, Connection]:
        # Spawn, not fork: a fork copies locks that threads of the coordinator may hold.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._function), daemon=True)
        with _one_thread_each():
            process.start()
        theirs.close()
        return process, ours

    def _answered(self) -> list[_Worker[ItemT]]:
        ready = set(wait([worker.connection for worker in self._busy]))
        return [worker for worker in self._busy if worker.connection in ready]

    def _result(self, worker: _Worker[ItemT]) -> ResultT | Exception:
        try:
            result = worker.connection.recv()
        except (EOFError, OSError):
            worker.connection.close()
            worker.process.join()
            return WorkerDiedError(worker.process.exitcode)
        self._idle.append((worker.process, worker.connection))
        return result

    def _close(self) -> None:
        for process, connection in self._idle:
            connection.close()
            process.join()
        for worker in self._busy:
            # Only when the caller stopped early: nobody waits for these answers.
            worker.connection.close()
            worker.process.terminate()
            worker.process.join()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Environment of a new worker: it is the processes that are parallel."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
