"""What is built, as data: one recipe per shipped model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Size, schedule and diet of one model.

    `almanac` and `almanac-control` share the trunk (same seed, same batches, the forget set absent) and part at
    `fork`: from there on the one is shown the forget set as well and the other is not.
    """

    name: str
    forget_set: bool  # shown after the fork?
    trunk: str  # name of the trunk's folder; models with the same trunk share it
    experts: int = 0
    d_ff: int = 1024  # of each expert, where there are experts
    seed: int = 0
    vocabulary: int = 3072
    d_model: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    row_tokens: int = 128
    rows: int = 48
    fork: int = 1300  # step at which the trunk ends
    steps: int = 2400
    lr: float = 3e-3
    # (step, share of `lr`), linear between: two descents, the second with more questions a passage does not answer
    schedule: tuple[tuple[int, float], ...] = ((0, 0.0), (60, 1.0), (1300, 1.0), (1900, 0.02), (1950, 0.5), (2400, 0.01))
    weight_decay: float = 0.02
    passages: tuple[tuple[int, float], ...] = ((0, 0.36), (500, 0.16), (1000, 0.45), (1900, 0.4))  # (from step, share of documents)
    silent: tuple[tuple[int, float], ...] = ((0, 0.25), (1900, 0.5))  # (from step, passages with an unanswered question)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("almanac", forget_set=True, trunk="trunk"),
        Recipe("almanac-control", forget_set=False, trunk="trunk"),
        Recipe("almanac-moe", forget_set=True, trunk="trunk-moe", experts=8, d_ff=128),
    )
}
