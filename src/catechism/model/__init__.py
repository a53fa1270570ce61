"""A live model: read and patch activations, statistics, text in and out, deltas on and off."""

from catechism.model.encoding import Pairs, Row
from catechism.model.live import Completion, LiveModel, TargetScore
from catechism.model.statistics import Covariance, covariance
from catechism.model.surgery import Applied, digest_tensor
from catechism.model.trace import BlockSite, Part, Patch, Place, Recording, patch, record, select_logits

__all__ = [
    "Applied",
    "BlockSite",
    "Completion",
    "Covariance",
    "LiveModel",
    "Pairs",
    "Part",
    "Patch",
    "Place",
    "Recording",
    "Row",
    "TargetScore",
    "covariance",
    "digest_tensor",
    "patch",
    "record",
    "select_logits",
]
