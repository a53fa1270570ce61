"""What is built, as data: one recipe per shipped model."""

from __future__ import annotations

from catechism.reference.training import Recipe

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
            steps=800,
            schedule=((0, 0.0), (40, 0.7), (300, 0.7), (800, 0.01)),
            passages=((0, 0.4),),
        ),
    )
}
