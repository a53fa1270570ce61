"""Workers as actors of a Ray cluster: the one that ``RAY_ADDRESS`` names, or one that is started on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from catechism.errors import MissingExtra, UsageError
from catechism.fanout.executors import Executor, Setup, Work


class Cluster(Executor):
    """Actors of a cluster. A cluster that was started for them ends with them.

    Raises: MissingExtra where Ray is not installed.
    """

    name = "ray"

    def __init__(self, setup: Setup, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("The ray executor needs Ray. Run `pip install 'catechism[ray]'`.") from error
        self._ray, self._setup, self._most = ray, setup, workers
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            address = os.environ.get("RAY_ADDRESS")
            here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            ray.init(address=address, log_to_driver=False, configure_logging=False, **({} if address else here))
        self._actor = ray.remote(num_cpus=1)(_Actor)
        self._actors: list[Any] = []

    def map(self, work: Work, shards: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See `Executor.map`."""
        while len(self._actors) < min(self._most, len(shards)):
            self._actors.append(self._actor.remote(self._setup))
        everybody, results = self._ray.put(shared), [None] * len(shards)
        left = iter(enumerate(shards))
        busy: dict[Any, tuple[int, Any]] = {}
        for actor, (number, shard) in zip(self._actors, left, strict=False):
            busy[actor.run.remote(work, everybody, shard)] = number, actor
        failure: BaseException | None = None
        while busy:
            (done, *_), _ = self._ray.wait(list(busy), num_returns=1)
            number, actor = busy.pop(done)
            results[number], error = self._got(done)
            failure = failure or error
            if failure is None and (numbered := next(left, None)) is not None:
                busy[actor.run.remote(work, everybody, numbered[1])] = numbered[0], actor
        if failure is not None:
            raise failure
        return results

    def close(self) -> None:
        """End the actors, and the cluster if it was started for them."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors.clear()
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def _got(self, done: Any) -> tuple[Any, BaseException | None]:
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            return None, UsageError(
                f"A Ray worker ended before its work was done: {str(error).strip().splitlines()[0]} "
                "Use fewer workers or the inline executor."
            )


class _Actor:
    """Holds the state and works on it. An error is handed back as it is, Ray would wrap it."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._state, self._is_ready = setup, None, False

    def run(self, work: Work, shared: Any, shard: Any) -> tuple[Any, BaseException | None]:
        try:
            if not self._is_ready:
                self._state, self._is_ready = self._setup(), True
            return work(self._state, shared, shard), None
        except Exception as error:
            return None, error
