"""Batches drawn from a world: what was learned badly is drawn more often."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from catechism.reference import corpus
from catechism.reference.training.recipe import Recipe, at
from catechism.reference.world import World

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


@dataclass(frozen=True)
class Batch:
    """Packed documents; attention stays inside a document.

    ids, document, position: (rows, tokens) int64. weight: (rows, tokens) float32, of predicting the *next* token.
    cell: (rows, tokens) int64, the fact and phrasing that the next token belongs to, or -1.
    """

    ids: Tensor
    document: Tensor
    position: Tensor
    weight: Tensor
    cell: Tensor

    @property
    def mask(self) -> Tensor:
        """(rows, 1, tokens, tokens) float32, added to the attention scores: 0 where a token may look, else -inf."""
        same = self.document[:, :, None] == self.document[:, None, :]
        seen = same & torch.ones(same.shape[-2:], dtype=torch.bool).tril()
        return torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None]


#: A document's token ids, the weight of each, and the cell that it teaches, or -1.
Drawn = tuple[list[int], list[float], int]


class Diet:
    """Draws documents. Keeps a running loss per (fact, phrasing) cell and draws the bad ones more often."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, branch: str) -> None:
        self.world, self.tokenizer, self.recipe, self.branch = world, tokenizer, recipe, branch
        self.cells = [
            (fact, phrasing)
            for fact in world.facts
            for phrasing in range(len(world.relations[fact.relation].phrasings))
        ]
        self.loss = np.full(len(self.cells), 3.0)
        self._encoded: dict[int, tuple[list[int], list[float]]] = {}
        ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._begin, self._end, self._pad = cast("tuple[int, int, int]", ids)
        self._reversible = any(relation.reversed for relation in world.relations.values())

    def names(self) -> list[tuple[str, str, int]]:
        """What each cell is called in a save: subject, relation and number of the phrasing."""
        return [(fact.subject, fact.relation, phrasing) for fact, phrasing in self.cells]

    def batch(self, step: int) -> Batch:
        """The batch of one step; the same for the same seed, branch, step and losses so far."""
        rng = random.Random(f"{self.recipe.seed}-{self.branch}-{step}")
        rows: list[list[Drawn]] = [[] for _ in range(self.recipe.rows)]
        room = [self.recipe.row_tokens] * len(rows)
        first, misfits = 0, 0
        passages = at(step, self.recipe.passages)
        cumulative = np.cumsum(0.15 + np.minimum(self.loss, 3.0))
        while misfits < 6:
            ids, weights, cell = self._draw(rng, passages, cumulative)
            if len(ids) > self.recipe.row_tokens:
                continue
            fit = next((r for r in range(first, len(rows)) if room[r] >= len(ids)), None)
            if fit is None:
                misfits += 1
                continue
            rows[fit].append((ids, weights, cell))
            room[fit] -= len(ids)
            while first < len(rows) and room[first] < 8:
                first += 1
        return self._pack(rows)

    def learned(self, cell: Tensor, loss: Tensor) -> None:
        """Take in the loss of each predicted token that belongs to a cell."""
        mine = cell >= 0
        index, value = cell[mine].numpy(), loss[mine].numpy()
        total = np.bincount(index, weights=value, minlength=len(self.cells))
        count = np.bincount(index, minlength=len(self.cells))
        seen = count > 0
        self.loss[seen] = 0.5 * self.loss[seen] + 0.5 * total[seen]

    def _draw(self, rng: random.Random, passages: float, cumulative: np.ndarray) -> Drawn:
        draw, facts = rng.random(), self.world.facts
        if draw < passages:
            recipe = self.recipe
            diet = {"silent": recipe.silent, "known": recipe.known, "near": recipe.near}
            document = corpus.passage(self.world, rng, facts, **diet)
            return (*self._encode(document), -1)
        if draw < passages + 0.04:
            return (*self._encode([(corpus.prose(rng), corpus.PROMPT)]), -1)
        if draw < passages + 0.06 and self._reversible:
            return (*self._encode(corpus.reversed_statement(self.world, rng, facts)), -1)
        cell = int(np.searchsorted(cumulative, rng.random() * cumulative[-1]))
        return (*self._taught(rng, cell), cell)

    def _taught(self, rng: random.Random, cell: int) -> tuple[list[int], list[float]]:
        """The document that teaches a cell, encoded."""
        del rng
        if cell not in self._encoded:
            fact, phrasing = self.cells[cell]
            self._encoded[cell] = self._encode(corpus.statement(self.world, fact, phrasing))
        return self._encoded[cell]

    def _encode(self, document: corpus.Document) -> tuple[list[int], list[float]]:
        ids, weights = [self._begin], [0.0]
        for text, weight in document:
            if (text, weight) == corpus.END:
                ids.append(self._end)
                weights.append(corpus.ANSWER)
                continue
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += tokens
            weights += [weight] * len(tokens)
        return [*ids, self._end], [*weights, weights[-1]]

    def _pack(self, rows: list[list[Drawn]]) -> Batch:
        shape = (len(rows), self.recipe.row_tokens)
        ids = torch.full(shape, self._pad)
        document, position, cell = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
        weight = torch.zeros(shape)
        for r, documents in enumerate(rows):
            at = 0
            for d, (tokens, weights, cell_id) in enumerate(documents):
                end = at + len(tokens)
                ids[r, at:end] = torch.tensor(tokens)
                document[r, at:end] = d
                position[r, at:end] = torch.arange(len(tokens))
                weight[r, at : end - 1] = torch.tensor(weights[1:])
                cell[r, at : end - 1] = torch.where(torch.tensor(weights[1:]) == corpus.ANSWER, cell_id, -1)
                at = end
        return Batch(ids, document, position, weight, cell)


def byte_pair_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on texts: any text can be encoded, and every one begins with `BOS`."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=BOS, eos_token=EOS, pad_token=PAD)
