"""``forget seal audit certificate verify``: forgetting that can be proven."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from catechism.cli.edits import AUTO, ByOption, EditArgument, ModelOption, service
from catechism.cli.output import Result, verb
from catechism.errors import UsageError

HOWS = ("abstain", "replace", "erase")

ControlOption = Annotated[
    str | None, typer.Option(help="A model that never learned it; none goes without. Shipped models have theirs.")
]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for name, function in (("forget", forget), ("seal", seal), ("audit", audit)):
        verb(app, name)(function)
    app.add_typer(group, name="certificate")


group = typer.Typer(help="Certificates of forgetting.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    """Certificates of forgetting."""


def forget(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FACT] [ANSWER]", help="One plain sentence; with --how replace the new answer, last."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Everything about this person or thing.")] = None,
    source: Annotated[str | None, typer.Option(help="Everything learned from this document.")] = None,
    author: Annotated[str | None, typer.Option(help="Everything that this person taught.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="The facts of a feed or a benchmark's file.", exists=True, dir_okay=False)
    ] = None,
    edit: Annotated[str | None, typer.Option(help="What one of our own edits taught.")] = None,
    how: Annotated[str, typer.Option(help="What is said instead: abstain, replace or erase.")] = "erase",
    method: Annotated[str, typer.Option(help="One method for what the weights know; auto tries several.")] = AUTO,
    control: ControlOption = None,
    retain: Annotated[
        Path | None, typer.Option(help="Facts that must stay, as a feed or a benchmark's file.", dir_okay=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on though too much depends on it.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Put it into effect if its gates pass.")] = False,
    seal: Annotated[bool, typer.Option("--seal", help="And destroy the way back, for good.")] = False,
    reason: Annotated[str, typer.Option(help="Why; stands in the certificate.")] = "",
    by: ByOption = "",
    model: ModelOption = "almanac",
    seed: SeedOption = 0,
) -> Result:
    """Forget a fact, a person, a document, an author, a file or an edit.

    First a plan: what the model knows of it, which of our own edits taught it, what is left for a change of the
    weights, what is near enough to be hurt. Our own edits are taken out exactly. A deletion is an edit like any other.

    Exit code 1 if no method passes the gates, 3 if too much depends on the target, 4 if requests contradict.
    """
    said, answer = _words(words or [], how)
    named = {"fact": said, "subject": subject, "source": source, "author": author}
    named |= {"dataset": None if dataset is None else str(dataset), "edit": edit}
    given = {sort: value for sort, value in named.items() if value is not None}
    if len(given) != 1:
        raise UsageError(
            f"Got {len(given)} targets ({', '.join(given) or 'none'}), expected one. Give a FACT, or one of --subject, "
            "--source, --author, --dataset, --edit."
        )
    if seal and not release:
        raise UsageError("Only a deletion in effect can be sealed. Add --release to --seal.")
    if method != AUTO:
        from catechism.methods.forgetting import forgetter

        forgetter(method)  # a wrong name is said before the model is opened
    ((sort, value),) = given.items()
    return _forget(model, sort, value, dry_run, {
        "how": how, "replacement": answer, "method": method, "control": control, "retain": retain, "reason": reason,
        "author": by, "release": release, "seal": seal, "force": force, "seed": seed,
    })  # fmt: skip


def _forget(model: str, sort: str, value: str, dry_run: bool, given: dict[str, Any]) -> Result:
    """Plan, and do it unless the plan is all that is wanted."""
    from catechism.service.forgetting.outcome import ForgetEnding, Forgotten
    from catechism.service.forgetting.plan import Options
    from catechism.service.forgetting.tables import forgotten_view, plan_view
    from catechism.service.forgetting.target import Sort, Target
    from catechism.types import How

    with service(model) as opened:
        options = Options(**{**given, "how": How(given["how"]), "author": given["author"] or opened.settings.user})
        plan = opened.plan_forgetting(Target(Sort(sort), value), options)
        if dry_run and plan.known:
            done = Forgotten(ForgetEnding.PLANNED, "Nothing was done.", plan, copies=plan.copies)
            return Result({"model": model, **done.json()}, plan_view(plan))
        done = opened.carry_out(plan)
    bad = {ForgetEnding.FAILED, ForgetEnding.REFUSED}
    return Result({"model": model, **done.json()}, forgotten_view(done), 1 if done.ending in bad else 0)


def _words(words: list[str], how: str) -> tuple[str | None, str]:
    """The fact and the answer among the words of the command."""
    if how not in HOWS:
        raise UsageError(f"--how {how} is not known. Choose one of: {', '.join(HOWS)}.")
    answer = ""
    if how == "replace":
        if not words:
            raise UsageError("--how replace needs an answer. Write it last: --how replace 'ANSWER'.")
        *words, answer = words
    if len(words) > 1:
        raise UsageError(f"Got {len(words)} words. Put the fact in quotation marks; an answer needs --how replace.")
    return (words[0] if words else None), answer


def seal(edit: EditArgument, by: ByOption = "") -> Result:
    """Destroy the way back from a deletion in effect, for good.

    The deltas of the edits that it took out, training rows, exams, reports and cached statistics are overwritten; the
    audit chain keeps their hashes and still proves itself. There is no undo.
    """
    with service() as opened:
        seals = opened.seal(edit, by)
    lines = [f"{one.edit}: {', '.join(one.gone)} destroyed; kept: {', '.join(one.kept) or 'nothing'}" for one in seals]
    text = "\n".join([*lines, "Only hashes are left. `catechism verify` proves the store."])
    return Result({"rows": [one.json() for one in seals]}, text)


def audit(
    edit: EditArgument,
    profile: Annotated[str, typer.Option(help="How much is tried: quick or full.")] = "quick",
    control: ControlOption = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Write a signed certificate (.json) with a printable page.", dir_okay=False)
    ] = None,
    with_text: Annotated[bool, typer.Option("--with-text", help="Name the facts in it, not only digests.")] = False,
    by: ByOption = "",
    model: ModelOption = "almanac",
    seed: SeedOption = 0,
) -> Result:
    """Attack a deletion with everything there is, beside a model that never learned.

    The verdict is one word: removed, erased, suppressed or failed. (What happened in the store, by whom and when, is
    shown by `catechism log`.) Exit code 1 if the verdict is failed.
    """
    from rich.console import Console

    from catechism.service.forgetting.proof import profile_of
    from catechism.service.forgetting.tables import proof_view

    profile_of(profile)  # a wrong name is said before the model is opened
    if certificate is not None and certificate.suffix != ".json":
        raise UsageError(f"{certificate} does not end in .json. The printable page is written beside it.")
    console = Console(stderr=True)

    def progress(name: str, step: int, steps: int) -> None:
        console.print(f"{step:>4} of {steps}  {name}", markup=False, highlight=False)

    with service(model) as opened:
        proof = opened.prove(edit, profile=profile, control=control, seed=seed, progress=progress)
        files = None if certificate is None else opened.certify(proof, certificate, by, with_text=with_text)
    if files is not None:
        console.print(f"Certificate: {files[0]}, to print: {files[1]}", markup=False, highlight=False)
    written = None if files is None else [str(file) for file in files]
    payload = {"model": model, **proof.json(), "certificate": written}
    return Result(payload, proof_view(proof), 1 if str(proof.audit.verdict) == "failed" else 0)


@verb(group, "verify")
def verify(
    file: Annotated[Path, typer.Argument(help="The .json file of a certificate.", exists=True, dir_okay=False)],
    key: Annotated[
        Path | None, typer.Option(help="The signer's public key (PEM), keys/ID.pub of the store.", exists=True)
    ] = None,
) -> Result:
    """Verify a certificate, without a store, a model or a network.

    Exit code 1 if anything in it, or on its page, is not what was signed; each such place is named.
    """
    from catechism.registry.certificate import verify as verify_certificate

    found = verify_certificate(file, key=None if key is None else key.read_bytes())
    lines = [f"does not match: {problem}" for problem in found.problems]
    if found.ok:
        said = found.body.get("audit", {})
        lines = [f"The certificate holds. Its verdict: {said.get('verdict')}. Signed by key {found.signer}."]
    lines += [f"note: {note}" for note in found.notes]
    return Result(found.json(), "\n".join(lines), 0 if found.ok else 1)
