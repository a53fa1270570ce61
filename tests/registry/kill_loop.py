"""Kill a process that works on a store, at random times, again and again, and look whether anything is lost.

    python tests/registry/kill_loop.py 200 [SEED]

prints one JSON object; the exit code is 1 if anything that must hold did not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.registry.crash import ended, forked, violations, work, written


def main(rounds: int, seed: int = 0) -> dict[str, Any]:
    """Kill so many times; the store lives on from one round to the next and is begun anew now and then."""
    rng = random.Random(seed)
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            home = Path(folder) / f"store{number // 20}"
            said = home.parent / f"said{number // 20}.jsonl"
            before = said.stat().st_size if said.exists() else 0
            child = forked(lambda home=home, said=said, number=number: _worker(home, said, seed * 10_007 + number))
            if rng.random() < 0.8:  # while it works; otherwise while it opens, as a rule
                _until_said(child, said, before, rng.randrange(1, 12))
            time.sleep(rng.uniform(0.0, 0.2))
            os.kill(child, signal.SIGKILL)
            counts["kills"] += ended(child) == -signal.SIGKILL
            found, left = violations(home, written(said))
            wrong += [f"round {number}: {one}" for one in found]
            counts.update(left)
        done = [line for path in sorted(Path(folder).glob("said*.jsonl")) for line in written(path)]
    verbs = dict(sorted(Counter(line["verb"] for line in done).items()))
    return {
        "rounds": rounds, "seed": seed, "kills": counts["kills"], "operations": len(done), "verbs": verbs,
        "unfinished_swept": counts["unfinished"], "violations": wrong,
    }  # fmt: skip


def _until_said(child: int, path: Path, before: int, lines: int) -> None:
    """Wait until the worker has said so many lines, or has ended by itself."""
    while not path.exists() or path.read_bytes()[before:].count(b"\n") < lines:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.005)


def _worker(home: Path, said: Path, seed: int) -> None:
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    work(home, seed, lambda line: os.write(file, json.dumps(line).encode() + b"\n") and None)


if __name__ == "__main__":
    summary = main(*(int(word) for word in sys.argv[1:]))
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    sys.exit(bool(summary["violations"]))
