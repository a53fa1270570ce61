"""A batch of prompts with what a teacher makes of them at one block: what a distillation into that block is fitted on.

The teacher is the same model with a text in front of the prompt. Its row is the text's tokens and then the student's
own tokens, so every position of the student has its place in the teacher's row; what the teacher read in the text
stays in the text's positions. A prompt without such a text has to stay: its teacher is the model as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from catechism.model import encoding
from catechism.model.live import LiveModel
from catechism.model.tail import Tail
from catechism.model.trace import BlockSite, record, select_logits


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of a lesson.

    Attributes:
        text: what the student reads.
        answer: what is said after it, without the space between them; "" where nothing is asked.
        context: what the teacher reads before the text; "" if this row has to stay as it is.
        subject: what a taught text is about. The teacher is followed from the subject's last token on, the first place
            at which a student can know what is asked; where the text does not hold it, from the text's last token on.
    """

    text: str
    answer: str = ""
    context: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The k places that an answer is said from: before each of its tokens, and after its last one.

    Attributes:
        rows, tokens: the places.
        taught: which of them are in rows that are taught.
        chances: the teacher's distribution of the next token. Where a row's teacher does not say the answer, its places
            before the answer's tokens give all to these tokens.
    """

    rows: Int[Tensor, " k"]
    tokens: Int[Tensor, " k"]
    taught: Bool[Tensor, " k"]
    chances: Float[Tensor, "k v"]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """Prompts at one block.

    Attributes:
        tail: the network from the block on for the student's rows; ``tail.inputs`` is what the student's block reads.
        inputs: what the teacher's block reads at the student's positions; the student's own in rows that stay.
        outputs: what the teacher's block gives there.
        taught: positions of taught rows at which to give what the teacher gives. Not in rows whose teacher does not say
            the answer.
        kept: positions of rows that stay.
        answers: what is said.
        asked, heard: how many rows are taught, and of how many of them the teacher says the answer.
    """

    tail: Tail
    inputs: Float[Tensor, "b t d"]
    outputs: Float[Tensor, "b t d"]
    taught: Bool[Tensor, "b t"]
    kept: Bool[Tensor, "b t"]
    answers: Answers
    asked: int
    heard: int


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """Rows of student and teacher. `spans` are the answers' tokens in the student's rows, empty where nothing is asked;
    a student's position is later by `shifts` in the teacher's row, but for its `prefixes` first ones.
    """

    students: list[encoding.Row]
    teachers: list[encoding.Row]
    spans: list[tuple[int, int]]
    shifts: Int[Tensor, " b"]
    prefixes: Int[Tensor, " b"]


@torch.no_grad()
def lesson(live: LiveModel, layer: int, prompts: Sequence[Prompt]) -> Lesson:
    """Let student and teacher read the prompts, once.

    Raises: BadFact for an answer that adds no token; UnknownName for a block that is not there; UsageError for a text
        that has no tokens or, with its context, more than the model takes.
    """
    layout = _layout(live, prompts)
    batch, own = live.pad_windows(layout.students)
    tail = Tail(live, layer, batch)
    places = [(i, t) for i, (start, end) in enumerate(layout.spans) for t in range(start - 1, end)]
    rows, tokens = torch.tensor(places, device=live.device).T
    site, (teacher, _) = BlockSite(layer), live.pad_windows(layout.teachers)
    with (
        record(live, [site]) as reads,
        record(live, [site], what="output") as gives,
        select_logits(live, rows, tokens + layout.shifts[rows]),
    ):
        logits = live.model(**teacher, use_cache=False).logits
    row, token = batch["attention_mask"].nonzero().T
    there = token + torch.where(token >= layout.prefixes[row], layout.shifts[row], 0)
    inputs, outputs = tail.inputs.clone(), torch.zeros_like(tail.inputs)
    inputs[row, token], outputs[row, token] = reads[site][row, there], gives[site][row, there]
    taught = torch.tensor([bool(prompt.context) for prompt in prompts], device=live.device)
    ends = torch.tensor([end for _, end in layout.spans], device=live.device)
    said = torch.where(tokens + 1 < ends[rows], batch["input_ids"].roll(-1, 1)[rows, tokens], -1)
    wrong = (said >= 0) & (logits.argmax(dim=-1) != said)
    deaf = taught & torch.zeros_like(taught).index_put((rows[wrong],), wrong[wrong])
    chances = logits.float().softmax(dim=-1)
    mended = deaf[rows] & (said >= 0)
    chances[mended] = functional.one_hot(said[mended], chances.shape[1]).to(chances)
    first = torch.tensor([_first(live, p, s) for p, s in zip(prompts, layout.spans, strict=True)], device=live.device)
    known = torch.arange(own.shape[1], device=live.device) >= first[:, None]
    return Lesson(
        tail,
        inputs,
        outputs,
        taught=own & known & (taught & ~deaf)[:, None],
        kept=own & ~taught[:, None],
        answers=Answers(rows, tokens, taught[rows], chances),
        asked=int(taught.sum()),
        heard=int((taught & ~deaf).sum()),
    )


def _layout(live: LiveModel, prompts: Sequence[Prompt]) -> _Layout:
    students = encoding.rows(live.tokenizer, [prompt.text for prompt in prompts])
    spans = [(len(row.ids), len(row.ids)) for row in students]
    answered = [i for i, prompt in enumerate(prompts) if prompt.answer]
    full, found = encoding.target_spans(
        live.tokenizer, [prompts[i].text for i in answered], [prompts[i].answer for i in answered]
    )
    for i, row, span in zip(answered, full, found, strict=True):
        students[i], spans[i] = row, span
    teachers, shifts = [], []
    contexts = encoding.rows(live.tokenizer, [prompt.context for prompt in prompts])
    for prompt, student, context in zip(prompts, students, contexts, strict=True):
        front = context.ids if prompt.context else student.ids[: student.prefix]
        teachers.append(encoding.Row(front + student.ids[student.prefix :], len(front)))
        shifts.append(len(front) - student.prefix)
    encoding.check_length(teachers, live.max_tokens)
    prefixes = torch.tensor([student.prefix for student in students], device=live.device)
    return _Layout(students, teachers, spans, torch.tensor(shifts, device=live.device), prefixes)


def _first(live: LiveModel, prompt: Prompt, span: tuple[int, int]) -> int:
    """The first position at which a student can know what is asked."""
    if not prompt.context:
        return 0
    return live.subject_last(prompt.text, prompt.subject) if prompt.subject in prompt.text else span[0] - 1
