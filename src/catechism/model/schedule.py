"""How the rate of a training goes up and down."""

from __future__ import annotations

import math


def share_of_rate(step: int, *, warm_up: int, gone: float) -> float:
    """Of the full rate: up in equal steps, and along half a cosine down to nothing.

    Args:
        step: from 0.
        warm_up: steps until the full rate.
        gone: how much of the way down is behind, from 0 to 1.
    """
    return min((step + 1) / warm_up, 1.0) * (1 + math.cos(math.pi * gone)) / 2
