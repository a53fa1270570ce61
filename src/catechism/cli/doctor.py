"""``catechism doctor``: whether this installation can do what it should."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import typer

from catechism.cli.output import Result, table, verb
from catechism.settings import Settings

EXTRAS = {"peft": "peft", "harness": "lm_eval", "plot": "matplotlib"}


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "doctor")(doctor)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` is None for what is good to know and cannot be wrong."""

    name: str
    ok: bool | None
    detail: str
    fix: str | None = None


def doctor() -> Result:
    """Check this installation.

    The interpreter, the libraries, the devices, the cache and the shipped models, each with what to do about it.
    """
    settings = Settings.from_environment(os.environ)
    looks: list[Callable[[], list[Finding]]] = [
        interpreter, libraries, extras, devices, lambda: cache(settings), hub, shipped,
    ]  # fmt: skip
    findings = [finding for look in looks for finding in look()]
    ok = all(finding.ok is not False for finding in findings)
    rows = [{"check": f.name, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings]
    return Result({"ok": ok, "rows": rows}, table(rows), exit_code=0 if ok else 1)


def interpreter() -> list[Finding]:
    """Python itself."""
    good = sys.version_info >= (3, 11)
    return [Finding("python", good, platform.python_version(), None if good else "Take Python 3.11 or newer.")]


def libraries() -> list[Finding]:
    """The libraries that nothing works without. They are imported: a broken build shows only then."""
    findings: list[Finding] = []
    for name in ("torch", "transformers", "tokenizers", "safetensors"):
        try:
            __import__(name)
            findings.append(Finding(name, True, version(name)))
        except (ImportError, OSError, PackageNotFoundError) as error:
            findings.append(Finding(name, False, str(error), f"Run: pip install --force-reinstall {name}"))
    return findings


def extras() -> list[Finding]:
    """The libraries that only some commands need."""
    return [
        Finding(f"extra {extra}", None, "installed")
        if find_spec(module)
        else Finding(f"extra {extra}", None, "not installed", f'If you want it: pip install "catechism[{extra}]"')
        for extra, module in EXTRAS.items()
    ]


def devices() -> list[Finding]:
    """What models can be put on, and how many threads torch takes."""
    try:
        import torch
    except (ImportError, OSError):
        return []  # said already
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return [
        Finding("threads", None, f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        Finding("gpu", None, ", ".join(names) or "none; everything runs on the CPU"),
    ]


def cache(settings: Settings) -> list[Finding]:
    """Whether the cache folder can be written to."""
    try:
        settings.cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.cache):
            pass
    except OSError as error:
        return [
            Finding("cache", False, f"{settings.cache}: {error.strerror}", "Set CATECHISM_CACHE to a folder of yours.")
        ]
    return [Finding("cache", True, str(settings.cache))]


def hub() -> list[Finding]:
    """Whether models may be fetched by name."""
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(name)]
    return [
        Finding("hub", None, f"off ({', '.join(offline)} is set)" if offline else "asked when a name is not cached")
    ]


def shipped() -> list[Finding]:
    """Whether the models of the package are there, byte for byte."""
    from catechism.cli.models import inspect_models

    return [Finding(f"model {row['name']}", bool(row["intact"]), str(row["detail"])) for row in inspect_models()]
