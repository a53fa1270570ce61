"""The project speaks of itself alone: no path of the machine that it was written on."""

from __future__ import annotations

import re

from tests.style.source import ROOT, project_files

# Spelled in pieces, so that this file does not find itself.
FOLDERS = ("work", "root", "home", "Users", "mnt", "opt", "tmp/bash_jobs")
MACHINE_PATH = re.compile(rf"(?<![\w.:/~}}-])/(?:{'|'.join(FOLDERS)})/[\w.-]+")
LARGEST = 1 << 20


def test_no_file_names_a_path_of_one_machine() -> None:
    wrong: list[str] = []
    for path in project_files():
        raw = path.read_bytes()
        if len(raw) > LARGEST or b"\0" in raw:
            continue
        for number, line in enumerate(raw.decode("utf-8", errors="replace").splitlines(), start=1):
            if found := MACHINE_PATH.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} {found.group()}")
    assert not wrong, "\n".join(wrong)


def test_no_checkpoint_is_larger_than_the_repository_allows() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {size:,} bytes"
        for path in project_files()
        if (size := path.stat().st_size) > 10_500_000
    ]
    assert not large, "\n".join(large)
