"""Workers in processes of their own on this machine, started afresh so that nothing is inherited but the setup.

Messages are plain pickles between a process and its own children. Torch's way of sharing tensors by file handles is not
used: a result must outlive the worker that it comes from.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from catechism.errors import CatechismError, UsageError
from catechism.fanout.executors import Executor, Setup, Work

_PATIENCE_S = 10.0  # for a worker to save what it has when it is told to stop


@dataclass(frozen=True, slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection


class Processes(Executor):
    """Processes of this machine. They start with the first work, and no more of them than there are shards."""

    name = "process"

    def __init__(self, setup: Setup, workers: int) -> None:
        self._setup, self._most = setup, workers
        self._workers: list[_Worker] = []

    def map(self, work: Work, shards: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See `Executor.map`."""
        try:
            results, failure = self._map(work, shards, shared)
        except BaseException:  # a worker that died, or Ctrl-C: nobody waits for the answers of the others
            self.close()
            raise
        if failure is not None:
            raise failure
        return results

    def _map(self, work: Work, shards: Sequence[Any], shared: Any) -> tuple[list[Any], BaseException | None]:
        self._start(min(self._most, len(shards)))
        results: list[Any] = [None] * len(shards)
        left = iter(enumerate(shards))
        busy: dict[Connection, _Worker] = {}
        for worker in self._workers:
            if (numbered := next(left, None)) is not None:
                self._send(worker, (work, shared))
                self._send(worker, numbered)
                busy[worker.pipe] = worker
        failure: BaseException | None = None
        while busy:
            for pipe in wait(list(busy)):
                worker = busy.pop(pipe)  # type: ignore[arg-type]
                number, value, error = self._receive(worker)
                failure = failure or error
                results[number] = value
                if failure is None and (numbered := next(left, None)) is not None:
                    self._send(worker, numbered)
                    busy[worker.pipe] = worker
        return results, failure

    def close(self) -> None:
        """End the workers; one that does not end by itself is ended."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            worker.process.join(_PATIENCE_S)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()
            worker.process.close()
        self._workers.clear()

    def _start(self, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._workers) < n:
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, self._setup), name="catechism-worker")
            process.start()
            there.close()
            self._workers.append(_Worker(process, here))

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            worker.pipe.send_bytes(pickle.dumps(message))
        except (BrokenPipeError, ConnectionResetError):
            raise self._died(worker) from None

    def _receive(self, worker: _Worker) -> tuple[int, Any, BaseException | None]:
        try:
            return pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            raise self._died(worker) from None

    def _died(self, worker: _Worker) -> UsageError:
        worker.process.join(_PATIENCE_S)
        code = worker.process.exitcode
        return UsageError(
            f"A worker process ended with code {code} before its work was done; -9 as a rule means that memory ran "
            "out. Use fewer workers or the inline executor."
        )


def _serve(pipe: Connection, setup: Setup) -> None:
    """Work until the pipe is closed. Each message is new work with what its shards share, or a numbered shard."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    work, shared, state, is_ready = None, None, None, False
    try:
        while True:
            first, second = pickle.loads(pipe.recv_bytes())
            if not isinstance(first, int):
                work, shared = first, second
                continue
            try:
                if not is_ready:
                    state, is_ready = setup(), True
                reply: tuple[int, Any, BaseException | None] = first, work(state, shared, second), None  # type: ignore[misc]
            except Exception as error:
                reply = first, None, _travelling(error)
            pipe.send_bytes(pickle.dumps(reply))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass  # nobody waits for an answer any more
    finally:
        pipe.close()


def _end_with_the_parent() -> None:
    """A worker whose parent was killed would go on for nobody, and write where the next run writes."""
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


def _travelling(error: Exception) -> BaseException:
    """The error, or, where it cannot be pickled, one that says the same; with its traceback where it is no refusal."""
    if not isinstance(error, CatechismError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
