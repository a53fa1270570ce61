"""What a model says of somebody it never met, in the place of what it is to forget of somebody it knows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from catechism.model.forgetting.names import made_up_name
from catechism.model.live import LiveModel

SPOKEN_TOKENS = 16


def stranger_answers(
    live: LiveModel, prompts: Sequence[str], subjects: Sequence[str], known: Sequence[str], *, seed: int
) -> list[str]:
    """The answer to every prompt with a made-up name in the place of its subject, up to the first full stop.

    Prompts of one subject get one stranger, so that the answers are those of one person. An answer that is empty is
    asked for again with a name of its own, and is "nobody knows" at the last.

    Args:
        prompts, subjects: in pairs; a prompt that does not hold its subject is asked as it is.
        known: names that are not to be made up, and whose words may be joined.
    """
    rng = random.Random(f"strangers-{seed}")
    stranger = {one: made_up_name(one, known, rng, joined=True) for one in dict.fromkeys(subjects)}
    asked = [prompt.replace(subject, stranger[subject]) for prompt, subject in zip(prompts, subjects, strict=True)]
    answers = [_first(said.text) for said in live.generate(asked, max_new_tokens=SPOKEN_TOKENS)]
    for i in [i for i, answer in enumerate(answers) if not answer]:
        again = prompts[i].replace(subjects[i], made_up_name(subjects[i], known, rng, joined=False))
        (said,) = live.generate([again], max_new_tokens=SPOKEN_TOKENS)
        answers[i] = _first(said.text) or "nobody knows"
    return answers


def _first(text: str) -> str:
    """Up to the first full stop or line break that ends a sentence."""
    return text.split(". ")[0].split("\n")[0].rstrip(".").strip()
