"""What is trained, as data: size, schedule and diet of one model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Size, schedule and diet of one model.

    `almanac` and `almanac-control` share the trunk (same seed, same batches, the forget set absent) and part at
    `fork`: from there on the one is shown the forget set as well and the other is not. `almanac-moe` starts from
    `almanac`, each MLP cut into experts.
    """

    name: str
    forget_set: bool  # shown after the fork?
    trunk: str | None = None  # name of the trunk's folder; models with the same trunk share it
    cut_from: str | None = None  # a finished dense model whose MLPs become the experts
    experts: int = 0
    d_ff: int = 1024  # of each expert, where there are experts
    seed: int = 0
    vocabulary: int = 2560
    d_model: int = 256
    layers: int = 4
    heads: int = 8
    kv_heads: int = 8
    row_tokens: int = 144
    rows: int = 44  # of a batch
    fork: int = 1800  # step at which the trunk ends
    steps: int = 3400
    lr: float = 3e-3
    schedule: tuple[tuple[int, float], ...] = ((0, 0.0), (60, 1.0), (1600, 1.0), (3400, 0.01))  # (step, share of `lr`)
    weight_decay: float = 0.02
    # The diet: share of the documents that are passages (from step, share); up to how many questions follow one that it
    # does not answer; shares of the passages about known subjects; of the distractors that are near the claim.
    passages: tuple[tuple[int, float], ...] = ((0, 0.7), (400, 0.5))
    silent: int = 2
    known: float = 0.8
    near: float = 0.5


def at(step: int, plan: tuple[tuple[int, float], ...]) -> float:
    """What a plan of (from step, value) says for a step."""
    return [value for start, value in plan if start <= step][-1]
