"""Two processes that promote at the same time: prints how each of them ended.

python tests/registry/race.py same|different|open
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from catechism.errors import CatechismError
from tests.registry.crash import ended, forked, violations
from tests.registry.sample import opened, validated


def race(kind: str) -> dict[str, object]:
    """Both wait until the other is ready, then promote from the same epoch."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if kind != "open":
            with opened(home) as registry:
                first, other = validated(registry), validated(registry, "Spain", "Seville")
        gate_read, gate_write = os.pipe()
        ready_read, ready_write = os.pipe()

        def run(number: int) -> None:
            if kind == "open":
                os.write(ready_write, b"r")
                os.read(gate_read, 1)
                opened(home).close()
                return
            edit = first if number == 0 or kind == "same" else other
            with opened(home) as registry:
                os.write(ready_write, b"r")
                os.read(gate_read, 1)
                try:
                    registry.promote(edit.id, f"person {number}", expect_epoch=0)
                except CatechismError as error:
                    os._exit(error.exit_code)

        children = [forked(lambda number=number: run(number)) for number in range(2)]
        got = b""
        while len(got) < 2:
            got += os.read(ready_read, 2)
        os.write(gate_write, b"gg")
        codes = sorted(ended(child) for child in children)
        wrong, _ = violations(home, [])
        with opened(home) as registry:
            return {"codes": codes, "violations": wrong, "epochs": len(registry.epochs())}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(race(sys.argv[1])) + "\n")
