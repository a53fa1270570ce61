"""Changes as data: their kinds, the delta of a model, its file, and the way to and from PEFT."""

from catechism.delta.context import Context
from catechism.delta.delta import Delta
from catechism.delta.dense import Dense
from catechism.delta.file import load, save
from catechism.delta.gated import Gated
from catechism.delta.low_rank import LowRank
from catechism.delta.part import Part, matrix_of
from catechism.delta.peft import from_peft, to_peft
from catechism.delta.recall import Recall

__all__ = [
    "Context",
    "Delta",
    "Dense",
    "Gated",
    "LowRank",
    "Part",
    "Recall",
    "from_peft",
    "load",
    "matrix_of",
    "save",
    "to_peft",
]
