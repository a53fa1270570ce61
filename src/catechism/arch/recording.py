"""One forward pass over random tokens, with what went in and out of chosen modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


class Recording:
    """First input and whole output of every watched module in one forward pass; tensors flat as (rows, width).

    Attributes:
        tokens: the token ids of the pass, (b, t).
        logits: the model's logits, (b * t, v).
    """

    def __init__(self, model: nn.Module, watched: Iterable[nn.Module], tokens: Tensor) -> None:
        """Run `model` on `tokens`; its hooks are as before when this returns or raises."""
        self.tokens = tokens
        self._inputs: dict[nn.Module, object] = {}
        self._outputs: dict[nn.Module, object] = {}
        self._calls: Counter[nn.Module] = Counter()
        with ExitStack() as stack, torch.no_grad():
            for module in set(watched):
                stack.callback(module.register_forward_hook(self._see, with_kwargs=True).remove)
            mask = torch.ones_like(tokens)
            self.logits = _flat(model(input_ids=tokens, attention_mask=mask, use_cache=False).logits)

    def into(self, module: nn.Module) -> Tensor | None:
        """The module's first input, floats as float32; None if it did not run exactly once."""
        return _flat(self._inputs.get(module)) if self._calls[module] == 1 else None

    def out_of(self, module: nn.Module, index: int = 0) -> Tensor | None:
        """The module's output, or element `index` of a tuple; None if there is none, or it did not run exactly once."""
        output = self._outputs.get(module) if self._calls[module] == 1 else None
        if isinstance(output, tuple):
            output = output[index] if index < len(output) else None
        elif index:
            return None
        return _flat(output)

    def _see(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        self._calls[module] += 1
        given = (*args, kwargs.get("hidden_states"), *kwargs.values())
        self._inputs[module] = _copy(next((value for value in given if isinstance(value, Tensor)), None))
        self._outputs[module] = _copy(output)


def random_tokens(embed: nn.Module, seed: int) -> Tensor:
    """Token ids (2, 16) below the size of the vocabulary, on the embedding's device."""
    weight = next(embed.parameters())
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, len(weight), (2, 16), generator=generator).to(weight.device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without dropout; every module's own mode is back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _copy(value: object) -> object:
    """A copy of a tensor or of the tensors of a tuple, safe from later changes in place."""
    if isinstance(value, tuple):
        return tuple(_copy(item) for item in value)
    return value.detach().clone() if isinstance(value, Tensor) else value


def _flat(value: object) -> Tensor | None:
    if not isinstance(value, Tensor):
        return None
    if not value.is_floating_point():
        return value
    return value.float().reshape(-1, value.shape[-1])
