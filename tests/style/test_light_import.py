"""What is asked for often answers at once: neither the package nor its help loads torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "safetensors", "pydantic", "rich.console")
VERY_HEAVY = HEAVY[:4]  # the command line parser itself brings the others in

SNIPPETS = {
    "import catechism": HEAVY,
    "import catechism; catechism.Fact; catechism.CatechismError; dir(catechism)": HEAVY,
    "import catechism.facts, catechism.settings": HEAVY,
    "import catechism.cli.main": VERY_HEAVY,
}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_light_things_load_no_heavy_library(snippet: str) -> None:
    check = (
        f"import sys; {snippet}; heavy = sorted(set({SNIPPETS[snippet]!r}) & set(sys.modules)); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", ["--help", "ask --help", "bench single --help", "version", "help E201"])
def test_help_and_version_load_no_torch(words: str) -> None:
    run = f"sys.argv = ['catechism', *{words.split()!r}]\nfrom catechism.cli.main import main\n"
    check = (
        f"import sys\n{run}try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = sorted(set({VERY_HEAVY!r}) & set(sys.modules)); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout
