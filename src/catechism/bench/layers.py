"""Which layer a method's edits go to, measured on the model."""

from __future__ import annotations

from collections.abc import Sequence

from catechism.errors import ArchitectureMismatch
from catechism.locate.layers import PILOTS, rank_layers
from catechism.locate.locate import ENOUGH
from catechism.locate.patching import Where, mean_gains, patch_gains
from catechism.methods.select import CLOSED_FORM
from catechism.model import BlockSite, LiveModel
from catechism.model.address import Addresses
from catechism.model.background import Background
from catechism.types import JSON, Catechism, Role

#: Methods that tune one MLP output matrix: it acts by the same keys as a closed form's.
ONE_MATRIX = frozenset({"ft_bf", "ft_l", "ft_m"})

#: Methods that write into several MLPs, the last one of which is chosen; a mixture has none to write into.
SEVERAL_MLPS = frozenset({"malmen", "mend", "ultraedit"})

#: Methods that write where nothing but a norm and the head comes after: the last dense layer.
LAST_BLOCK = frozenset({"memoir", "sequential", "wise"})

#: Methods that need layers above, to carry what stands at one token to the answer's others: the middle dense layer.
MIDDLE_BLOCK = frozenset({"grace"})

#: Methods that write nowhere, and only read which question a prompt asks.
READERS = frozenset({"ice", "ike"})


def pilots_of(catechisms: Sequence[Catechism]) -> list[Catechism]:
    """Those whose prompt names their subject, which most measurements of a layer look at; all where none does."""
    return [one for one in catechisms if one.fact.subject and one.fact.subject in one.fact.prompt] or list(catechisms)


def choose_layer(
    name: str, live: LiveModel, catechisms: Sequence[Catechism], background: Background
) -> tuple[int, list[JSON]]:
    """The layer for a method, and what every layer was judged by, best first.

    For a closed form, and for the tuning of one matrix, it is where a subject's key is most its own (`rank_layers`).
    For a block to be trained it is the lowest one whose output, taken over the whole prompt from the model with the
    fact in its context, brings `ENOUGH` of the gain in the object's log-probability that the best block brings; for
    edits of several MLPs, which end there, the lowest such block with a dense MLP. For methods that only read it is the
    block whose address finds most of the phrasings to study, of equal ones the one nearest to the middle.

    Raises: ArchitectureMismatch if a method needs a dense MLP and every layer is a mixture of experts.
    """
    if name in LAST_BLOCK | MIDDLE_BLOCK:
        dense = [site.layer for site in live.anatomy.sites(Role.MLP_OUT)]
        if not dense:
            raise ArchitectureMismatch(f"{live.name} has no dense MLP, which {name} needs. Choose a dense model.")
        layer = dense[-1] if name in LAST_BLOCK else dense[(len(dense) - 1) // 2]
        return layer, [{"layer": layer, "score": 1.0}]
    if name in READERS:
        return _by_address(live, catechisms[:PILOTS], background)
    if name in CLOSED_FORM | ONE_MATRIX:
        loci = rank_layers(live, catechisms, background)
        ranked: list[JSON] = [{"layer": one.site.layer, "score": one.score, **one.evidence} for one in loci]
        return loci[0].site.layer, ranked
    facts = [catechism.fact for catechism in catechisms[:PILOTS]]
    layers = range(live.anatomy.n_layers)
    if name in SEVERAL_MLPS:
        layers = [site.layer for site in live.anatomy.sites(Role.MLP_OUT)]
        if not layers:
            raise ArchitectureMismatch(f"{live.name} has no dense MLP, which {name} needs. Choose a dense model.")
    places = [BlockSite(layer) for layer in layers]
    gains = mean_gains(patch_gains(live, facts, places=places, wheres=(Where.PROMPT,)))
    best = max(gain.logprob_gain for gain in gains)
    enough = [gain for gain in gains if gain.logprob_gain >= min(ENOUGH * best, best)]
    order = [*enough, *sorted((g for g in gains if g not in enough), key=lambda gain: -gain.logprob_gain)]
    return order[0].place.layer, [{"layer": g.place.layer, "score": g.logprob_gain, "gain": g.gain} for g in order]


def _by_address(live: LiveModel, catechisms: Sequence[Catechism], background: Background) -> tuple[int, list[JSON]]:
    """The layer whose address finds most of the phrasings to study, and the share that each finds."""
    found: list[tuple[float, int]] = []
    for layer in range(live.anatomy.n_layers):
        recall = Addresses(live, background, layer).table(catechisms).evidence().what.recall
        found.append((recall or 0.0, layer))
    middle = (live.anatomy.n_layers - 1) / 2
    found.sort(key=lambda one: (-one[0], abs(one[1] - middle), one[1]))
    return found[0][1], [{"layer": layer, "score": recall} for recall, layer in found]
