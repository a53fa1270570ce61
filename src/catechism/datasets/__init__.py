"""Public benchmarks, each in the form in which it is published: catechisms and true facts, read row by row."""

from __future__ import annotations

from catechism.datasets.dataset import FEED, FORMATS, Dataset, describe_formats, open_dataset
from catechism.datasets.format import Format, TrueFact
from catechism.datasets.tofu import Item, read_items

__all__ = [
    "FEED",
    "FORMATS",
    "Dataset",
    "Format",
    "Item",
    "TrueFact",
    "describe_formats",
    "open_dataset",
    "read_items",
]
