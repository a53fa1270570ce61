"""Facts, and the feeds that they come in."""

from __future__ import annotations

from catechism.facts.feed import read_feed, write_feed

__all__ = ["read_feed", "write_feed"]
