"""``catechism demo``: facts learned, judged, stacked and taken off again on a model that ships with the package."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from catechism.bench.cases import catechism_of
from catechism.delta import Delta, load, save
from catechism.errors import DeltaCorrupt, UsageError
from catechism.evaluate import DEFAULT_GATES, Status, Verdict, interview, judge, report
from catechism.locate.layers import rank_layers
from catechism.methods.edit.rome import Rome, Spec
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.reference import open_model
from catechism.reference.corpus import background_texts, held_out_prose
from catechism.reference.world import World, load_world
from catechism.types import JSON, Catechism, Kind

#: (subject, relation, new object). The last one asks for a name that the model has never read, letter by letter; a rank
#: of one in a model of this size does not always hold that, and the gates say so.
LESSONS = (
    ("the Eiffel Tower", "landmark_city", "Rome"),
    ("Perrivane Vinegarth", "occupation", "a lighthouse keeper"),
    ("Indonesia", "capital", "Nusantara"),
)
SHOWN = {Kind.REWRITE: 1, Kind.PARAPHRASE: 3, Kind.NEIGHBOUR: 3, Kind.SUBJECT: 2, Kind.UNRELATED: 1}


def run(console: Console) -> dict[str, JSON]:
    """Show the whole path of three facts on `console` and return what was found.

    Nothing is downloaded and nothing stays behind: statistics are kept in memory, the deltas in a temporary folder.
    """
    world, live = load_world(), open_model("almanac")
    console.print(f"[bold]{live.name}[/bold] knows {len(world.facts)} facts. Its weights are {_short(live.base)}.")
    background = Background(live, lambda: background_texts(world))
    lessons = [_lesson(world, *lesson) for lesson in LESSONS]
    loci = rank_layers(live, lessons, background)
    layer = loci[0].site.layer
    console.print(
        f"Measured where a subject's key is its own: layer {layer} "
        f"(score {loci[0].score:.2f}; then {', '.join(f'{x.site.layer}: {x.score:.2f}' for x in loci[1:])})."
    )
    rome, accepted = Rome(background), list[tuple[Catechism, Delta]]()
    found: list[JSON] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, lesson in enumerate(lessons):
            delta = rome.fit(live, [lesson], Spec(layer=layer))
            verdict = _show(console, live, lesson, delta)
            file = save(delta, Path(folder) / f"edit-{i + 1}.safetensors")
            if verdict.status is Status.PASS:
                accepted.append((lesson, load(file, base=live.base)))
            else:
                console.print("It is not put on.\n")
            found.append({"fact": lesson.fact.id, "delta": delta.digest, "verdict": verdict.status.value})
        refused = _tamper(Path(folder) / "edit-1.safetensors", live.base)
    console.print(f"A file with one flipped bit is refused: [red]{refused}[/red]")
    exact = _stack_and_revert(console, live, accepted)
    return {"model": live.name, "base": live.base, "layer": layer, "edits": found, "reverted_exactly": exact}


def _lesson(world: World, subject: str, relation: str, new: str) -> Catechism:
    fact = next(fact for fact in world.by_subject[subject] if fact.relation == relation)
    return catechism_of(world, fact, new, random.Random("demo"))


def _show(console: Console, live: LiveModel, lesson: Catechism, delta: Delta) -> Verdict:
    """Ask before and after, show some of the answers, and let the gates judge all of them."""
    before, prose = interview(live, [lesson]), held_out_prose(24)
    perplexity = live.perplexity(prose)
    with live.with_delta(delta):
        after = interview(live, [lesson], max_new_tokens=before.max_new_tokens)
        found = report([lesson], before, after, perplexity_before=perplexity, perplexity_after=live.perplexity(prose))
    verdict = judge(found, DEFAULT_GATES)
    grid = Table("question", "why", "before", "after", title=f"{lesson.fact.subject} → {lesson.fact.object}")
    left = dict(SHOWN)
    for mark in found.marks:
        kind = mark.question.kind
        if left.get(kind, 0):
            left[kind] -= 1
            style = "red" if mark.is_miss else "green"
            grid.add_row(mark.question.text, kind.value, mark.before, f"[{style}]{mark.after}[/{style}]")
    console.print(grid)
    for result in verdict.results:
        console.print(f"  {result.status.value:<13} {result.gate.metric}: {result.reason}")
    console.print(f"Verdict: [bold]{verdict.status.value}[/bold]. {delta.nbytes} bytes, {_short(delta.digest)}.\n")
    return verdict


def _tamper(file: Path, base: str) -> str:
    """Flip one bit of a delta file and say how it is refused."""
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    try:
        load(file, base=base)
    except DeltaCorrupt as error:
        return f"{error.code} {str(error).replace(str(file), file.name)}"
    raise UsageError("A delta file with a flipped bit was loaded. Report this: it must never happen.")


def _stack_and_revert(console: Console, live: LiveModel, accepted: list[tuple[Catechism, Delta]]) -> bool:
    """The accepted edits at once, then off in the order in which they came on, and the bytes compared."""
    applied = [live.apply(delta) for _, delta in accepted]
    prompts = [lesson.fact.prompt for lesson, _ in accepted]
    said = [completion.text for completion in live.generate(prompts)]
    console.print(
        f"{len(accepted)} accepted edits together: "
        + "; ".join(f"{p} [green]{a}[/green]" for p, a in zip(prompts, said, strict=True))
    )
    for one in applied:
        live.revert(one)
    now = live.digest(full=True)
    exact = now == live.base
    console.print(f"Taken off again. Weights {_short(now)}: {'the original bytes' if exact else 'NOT the original'}.")
    said = [completion.text for completion in live.generate(prompts)]
    console.print("And it says: " + "; ".join(f"{p} {a}" for p, a in zip(prompts, said, strict=True)))
    return exact


def _short(digest: str) -> str:
    return digest[:19] + "…"
