"""Text that the model writes by itself: contexts to put before a prompt, and a corpus where none is at hand."""

from __future__ import annotations

import torch

from catechism.model.decoding import Decoding
from catechism.model.live import LiveModel

#: Words that the published editors let the model go on from (kmeng01/rome, context templates).
OPENINGS = ("The", "Therefore", "Because", "I", "You")

#: A subject in sentences that say nothing of any relation.
FRAMES = (
    "{}",
    "{} is a",
    "Tell me about {}",
    "What do you know about {}?",
    "It is said of {} that",
    "The name of {}",
    "In the case of {}, the",
    "What is the name of {}?",
    "Which one is {} of?",
    "As for {}, it",
    "People say that {} has",
    "Who or what is {}?",
    "When people think of {}, they think of",
    "For {}, the answer is",
)


def contexts_of(live: LiveModel, *, n: int, tokens: int, seed: int) -> tuple[str, ...]:
    """`n` texts of the model's own to put before a prompt, each ending in a full stop."""
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(n)]
    texts = sample_texts(live, openings, tokens=tokens, seed=seed) if openings else []
    return tuple(text if text.endswith(".") else f"{text}." for text in texts)


def opening_of_nothing(live: LiveModel) -> str:
    """What a text is begun with that the model writes by itself from its first word on."""
    return "" if live.tokenizer("")["input_ids"] else str(live.tokenizer.eos_token or "The")


@torch.no_grad()
def sample_texts(live: LiveModel, openings: list[str], *, tokens: int, seed: int) -> list[str]:
    """Sample a continuation of every opening from the model's own distribution.

    Args:
        openings: the first words of each text; an empty string starts from the beginning-of-text token. A special
            token is read as such, and is not in the text that comes back.
        tokens: at most so many new tokens each; fewer where the model stops by itself.
        seed: of a generator of its own; no global random state is read or changed.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    batch = live.encode(openings, side="left")
    decoding = Decoding(live, batch)
    said: list[list[int]] = [[] for _ in openings]
    going = [True] * len(openings)
    for _ in range(tokens):
        chances = decoding.logits().float().softmax(dim=-1).cpu()
        choice = torch.multinomial(chances, 1, generator=generator)[:, 0]
        for i, token in enumerate(choice.tolist()):
            going[i] = going[i] and token not in live.stop_ids
            if going[i]:
                said[i].append(token)
        if not any(going):
            break
        decoding.append(choice)
    # Opening and continuation are decoded as one: many tokenizers drop the space in front of a text's first token.
    rows = [
        [*row[real].tolist(), *more]
        for row, real, more in zip(batch["input_ids"], batch["attention_mask"].bool(), said, strict=True)
    ]
    return live.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)
