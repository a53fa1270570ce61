"""Methods: one file each, one protocol for all."""

from catechism.methods.registry import METHODS, Method, method

__all__ = ["METHODS", "Method", "method"]
