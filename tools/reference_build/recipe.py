"""What is built, as data: one recipe per shipped model."""

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
    vocabulary: int = 3072
    d_model: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    row_tokens: int = 128
    rows: tuple[tuple[int, int], ...] = ((0, 48),)  # (from step, rows of a batch)
    fresh: int = 2600  # step at which the optimisers' state is dropped
    fork: int = 1300  # step at which the trunk ends
    steps: int = 2950
    lr: float = 3e-3
    # (step, share of `lr`), linear between. Four descents; the later ones teach to read against what is known.
    schedule: tuple[tuple[int, float], ...] = (
        (0, 0.0), (60, 1.0), (1300, 1.0), (1900, 0.02), (1950, 0.5), (2250, 0.19), (2290, 0.3), (2600, 0.01),
        (2630, 0.35), (2950, 0.01),
    )  # fmt: skip
    weight_decay: float = 0.02
    # The diet, each (from step, share): of the documents that are passages; of the passages with a question that they
    # do not answer; of the passages about known subjects; of the distractors that are near the claim.
    passages: tuple[tuple[int, float], ...] = ((0, 0.36), (500, 0.16), (1000, 0.45), (1900, 0.4), (2250, 0.6))
    silent: tuple[tuple[int, float], ...] = ((0, 0.25), (1900, 0.5))
    known: tuple[tuple[int, float], ...] = ((0, 0.6), (2250, 0.85))
    near: tuple[tuple[int, float], ...] = ((0, 0.7), (2600, 0.3))


def at(step: int, plan: tuple[tuple[int, float], ...]) -> float:
    """What a plan of (from step, value) says for a step."""
    return [value for start, value in plan if start <= step][-1]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("almanac", forget_set=True, trunk="trunk"),
        Recipe("almanac-control", forget_set=False, trunk="trunk"),
        Recipe(
            "almanac-moe",
            forget_set=True,
            cut_from="almanac",
            experts=8,
            d_ff=128,
            fork=0,
            rows=((0, 24),),
            steps=800,
            schedule=((0, 0.0), (40, 0.7), (300, 0.7), (800, 0.01)),
            passages=((0, 0.5),),
            silent=((0, 0.5),),
            known=((0, 0.85),),
            near=((0, 0.3),),
        ),
    )
}
