"""Training small models that know a given set of facts: the recipe, the diet and the loop."""

from catechism.reference.training.batches import BOS, EOS, PAD, Batch, Diet, byte_pair_tokenizer
from catechism.reference.training.recipe import Recipe, at
from catechism.reference.training.trainer import Trainer, new_model

__all__ = ["BOS", "EOS", "PAD", "Batch", "Diet", "Recipe", "Trainer", "at", "byte_pair_tokenizer", "new_model"]
