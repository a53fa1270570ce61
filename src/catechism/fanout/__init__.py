"""Work shared out over shards of facts, sheets or layers: here, in other processes, or on a Ray cluster.

An executor only decides where a shard is worked on, never how large it is, so results are the same bit for bit.
"""

from __future__ import annotations

from catechism.fanout.executors import EXECUTORS, Executor, Inline, open_executor

__all__ = ["EXECUTORS", "Executor", "Inline", "open_executor"]
