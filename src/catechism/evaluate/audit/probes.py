"""What the inside of a model still says: a linear probe and the logit lens, layer by layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.evaluate.audit.items import Item
from catechism.model import BlockSite, LiveModel, record
from catechism.model.encoding import positions
from catechism.model.target_tokens import target_tokens
from catechism.types import Catechism

FEWEST = 8  # facts that a probe is fitted on
RIDGE = 0.1  # in units of the mean variance of the features, times the number of facts
BATCH = 64


@torch.no_grad()
def last_states(live: LiveModel, prompts: Sequence[str], layers: Sequence[int]) -> Float[Tensor, "layers n d"]:
    """The residual stream after each layer at the last token of every prompt, in float64 on the CPU."""
    sites = [BlockSite(layer) for layer in layers]
    found: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        batch = live.encode(prompts[start : start + BATCH])
        last = batch["attention_mask"].sum(dim=1) - 1
        with record(live, sites, what="output") as streams:
            live.model(**batch, position_ids=positions(batch["attention_mask"]), use_cache=False)
        rows = torch.arange(len(last), device=last.device)
        found.append(torch.stack([streams[site][rows, last].double().cpu() for site in sites]))
    return torch.cat(found, dim=1)


def fit_probe(x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ridge regression of one-hot labels on standardised features, in its dual form.

    Returns: weights ``(d, classes)``, and mean and deviation ``(d,)`` of the features. The intercept is left out: the
    labels are centred, which shifts all classes by their frequency, and that is what a guess would use.
    """
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-9)
    z = (x - mean) / deviation
    y = torch.nn.functional.one_hot(labels, classes).to(x)
    y = y - y.mean(dim=0)
    gram = z @ z.T
    ridge = RIDGE * gram.diagonal().mean()
    return z.T @ torch.linalg.solve(gram + ridge * torch.eye(len(x), dtype=x.dtype), y), mean, deviation


def predict(probe: tuple[Tensor, Tensor, Tensor], x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """The class that a probe gives to each row."""
    weights, mean, deviation = probe
    return ((x - mean) / deviation @ weights).argmax(dim=1)


def probe_hits(
    live: LiveModel, items: Sequence[Item], shown: Sequence[Catechism], layers: Sequence[int]
) -> list[list[float]]:
    """By layer and fact: whether a probe that was fitted on other facts of the relation reads the answer.

    A probe is fitted for each relation on the model's own states, at the last token of every prompt of `shown`. nan for
    facts whose relation has fewer than `FEWEST` others, or none with this answer.
    """
    taught: dict[str | None, list[tuple[str, str]]] = defaultdict(list)
    forgotten = {item.fact for item in items}
    for one in shown:
        if one.fact not in forgotten:
            asked = dict.fromkeys([one.fact.prompt, *(q.text for q in one.questions if one.fact.object in q.accept)])
            taught[one.fact.relation] += [(prompt, one.fact.object) for prompt in asked]
    hits = [[math.nan] * len(items) for _ in layers]
    for relation in dict.fromkeys(item.fact.relation for item in items):
        objects = sorted({answer for _, answer in taught[relation]})
        asked = [i for i, item in enumerate(items) if item.fact.relation == relation and item.fact.object in objects]
        if len(taught[relation]) < FEWEST or len(objects) < 2 or not asked:
            continue
        labels = torch.tensor([objects.index(answer) for _, answer in taught[relation]])
        known = last_states(live, [prompt for prompt, _ in taught[relation]], layers)
        tested = last_states(live, [items[i].asked[0] for i in asked], layers)
        for row, x, z in zip(hits, known, tested, strict=True):
            found = predict(fit_probe(x, labels, len(objects)), z)
            for i, label in zip(asked, found.tolist(), strict=True):
                row[i] = float(objects[label] == items[i].fact.object)
    return hits


@torch.no_grad()
def lens_hits(live: LiveModel, items: Sequence[Item], layers: Sequence[int]) -> list[list[float]]:
    """By layer and fact: whether the right answer is the likeliest of its sort when the head reads the layer.

    An answer's score is the mean log-probability of its tokens after the canonical prompt. nan without wrong answers.
    """
    pairs = [(i, item.asked[0], answer) for i, item in enumerate(items) for answer in (item.fact.object, *item.rivals)]
    scores: list[list[float]] = [[] for _ in layers]
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        asked = target_tokens(live, [prompt for _, prompt, _ in batch], [answer for _, _, answer in batch])
        sites = [BlockSite(layer) for layer in layers]
        with record(live, sites, what="output") as streams:
            live.model(**asked.inputs, use_cache=False)
        places = torch.bincount(asked.rows).double()
        for row, site in zip(scores, sites, strict=True):
            logs = live.anatomy.unembed(streams[site][asked.rows, asked.tokens]).double().log_softmax(dim=-1)
            said = logs.gather(1, asked.said[:, None])[:, 0]
            row += (torch.zeros_like(places).index_add(0, asked.rows, said) / places).tolist()
    first = {i: n for n, (i, _, _) in reversed(list(enumerate(pairs)))}
    return [
        [
            float(row[first[i]] > max(row[first[i] + 1 : first[i] + 1 + len(item.rivals)])) if item.rivals else math.nan
            for i, item in enumerate(items)
        ]
        for row in scores
    ]
