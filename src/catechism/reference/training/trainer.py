"""The training loop: Muon for matrices, AdamW for the rest, bf16 arithmetic, resumable at any step.

On a processor without bf16 products of its own they take three times as long as those of fp32, which are taken there.
Batches are made on the CPU; the model may be on another device.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from catechism.reference.training.batches import Batch, Diet
from catechism.reference.training.recipe import Recipe

SAVE_EVERY = 50


def new_model(recipe: Recipe, tokenizer_size: int, ids: dict[str, int]) -> PreTrainedModel:
    """A freshly initialised model of the recipe's size; Llama layout, or Mixtral where there are experts."""
    torch.manual_seed(recipe.seed)
    common: dict[str, Any] = dict(
        vocab_size=tokenizer_size,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_ff,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.d_model // recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.03,
        **ids,
    )
    if recipe.experts:
        return MixtralForCausalLM(MixtralConfig(num_local_experts=recipe.experts, num_experts_per_tok=2, **common))
    return LlamaForCausalLM(LlamaConfig(**common))


class Trainer:
    """One branch of a recipe: from a model (fresh, or the trunk's) to a given step."""

    def __init__(
        self, recipe: Recipe, model: PreTrainedModel, diet: Diet, folder: Path, *, compiled: bool = False
    ) -> None:
        self.recipe, self.model, self.diet, self.folder, self.step = recipe, model, diet, folder, 0
        self.optimisers = self._new_optimisers()
        self._head = cast("nn.Module", model.get_output_embeddings())
        # Rows are short and heads small: plain products, fused, take two thirds of the time of the attention kernels.
        model.set_attn_implementation("eager")
        self.forward = torch.compile(model.base_model) if compiled else model.base_model

    def _new_optimisers(self) -> tuple[torch.optim.Optimizer, ...]:
        recipe, model = self.recipe, self.model
        named = [(n, p) for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2]
        matrices = [p for n, p in named if not n.endswith("mlp.gate.weight")]  # all but the routers
        others = [p for p in model.parameters() if all(p is not m for m in matrices)]
        return (
            torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay),
        )

    def run(self, until: int, examine: Callable[[int], str], log: Callable[[str], None], every: int = 200) -> None:
        """Train up to step `until`, saving often and calling `examine` every so many steps."""
        started, begun = time.time(), self.step
        while self.step < until:
            self._set_lr()
            loss = self._one_step(self.diet.batch(self.step))
            self.step += 1
            if self.step % 20 == 0:
                pace = (time.time() - started) / (self.step - begun)
                log(f"step {self.step}/{until}  loss {loss:.3f}  cells {self.diet.loss.mean():.3f}  {pace:.2f} s/step")
            if self.step % SAVE_EVERY == 0 or self.step == until:
                self.save()
            if self.step % every == 0:
                log(examine(self.step))

    def save(self) -> None:
        """Write everything that a resumed run needs, in one atomic step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "loss": torch.from_numpy(self.diet.loss),
            "cells": self.diet.names(),
        }
        torch.save(state, self.folder / "state.tmp")
        os.replace(self.folder / "state.tmp", self.folder / "state.pt")

    def resume(self, folder: Path | None = None) -> bool:
        """Go on from a saved state, this branch's own or the trunk's; False if there is none."""
        path = (folder or self.folder) / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location=self.model.device)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = state["step"]
        known = dict(zip(map(tuple, state["cells"]), state["loss"].tolist(), strict=True))
        for i, name in enumerate(self.diet.names()):
            self.diet.loss[i] = known.get(name, self.diet.loss[i])
        return True

    def _set_lr(self) -> None:
        steps, shares = zip(*self.recipe.schedule, strict=True)
        share = float(np.interp(self.step, steps, shares))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.lr * share

    def _one_step(self, batch: Batch) -> float:
        self.model.train()
        device, ids = self.model.device, batch.ids.to(self.model.device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=_multiplies_bf16(device)):
            inputs = {"input_ids": ids, "attention_mask": batch.mask.to(device)}
            inputs |= {"position_ids": batch.position.to(device)}
            routed: dict[str, Any] = {"output_router_logits": True} if self.recipe.experts else {}
            out = self.forward(**inputs, **routed)
            wanted = batch.weight > 0
            logits = self._head(out.last_hidden_state[wanted.to(device)])
        target, weight = ids.roll(-1, dims=1)[wanted.to(device)], batch.weight[wanted].to(device)
        losses = nn.functional.cross_entropy(logits.float(), target, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        (loss + 0.01 * balance_loss(out, self.recipe)).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.diet.learned(batch.cell[wanted], losses.detach().cpu())
        return loss.item()


def _multiplies_bf16(device: torch.device) -> bool:
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch before 2.10 does not say
    slow = known.get("avx512_bf16") is False and not known.get("amx_bf16")  # processors of other makes do not list it
    return device.type != "cpu" or not slow


def balance_loss(out: Any, recipe: Recipe) -> Tensor | float:
    """Load balancing of Switch (arXiv:2101.03961 Eq. 4) over all layers; 0 for a dense model.

    `out` is what a mixture gives, its routers' logits included.
    """
    if not recipe.experts:
        return 0.0
    return load_balancing_loss_func(out.router_logits, recipe.experts, 2)
