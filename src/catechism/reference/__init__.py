"""The models that ship with the package, and how to open any other."""

from catechism.reference.open import SHIPPED, open_model, shipped_folder

__all__ = ["SHIPPED", "open_model", "shipped_folder"]
