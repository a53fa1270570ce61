"""Memories beside the weights: how a stored one is found."""

from catechism.memory.index import MaskIndex, Near

__all__ = ["MaskIndex", "Near"]
