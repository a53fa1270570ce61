"""Changes as data: the low-rank change of a matrix, the delta of a model, its file, and the way to and from PEFT."""

from catechism.delta.delta import Delta
from catechism.delta.file import load, save
from catechism.delta.low_rank import LowRank
from catechism.delta.peft import from_peft, to_peft

__all__ = ["Delta", "LowRank", "from_peft", "load", "save", "to_peft"]
