"""What stands around the package: the network guard, the settings, the wheel, the documentation of commands."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import typer.main

from catechism.cli.main import app
from catechism.settings import Settings
from tests.conftest import is_loopback
from tests.style.source import PACKAGE, ROOT, project_files


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
def test_a_test_cannot_reach_the_network(call: str) -> None:
    with socket.socket() as outside, pytest.raises(pytest.fail.Exception, match="without a network"):
        getattr(outside, call)(("192.0.2.1", 80))


def test_a_test_cannot_look_up_a_name() -> None:
    with pytest.raises(pytest.fail.Exception, match="look up 'example.org'"):
        socket.create_connection(("example.org", 80))


def test_loopback_and_unix_sockets_stay_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lambda: server.accept()[0].close())
        thread.start()
        with socket.create_connection(("localhost", server.getsockname()[1])):
            thread.join()
    left, right = socket.socketpair()
    left.close()
    right.close()


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost", None)))
    assert not any(map(is_loopback, ("10.0.0.1", "example.org", "::2")))


def test_settings_come_from_the_environment_that_is_handed_in(tmp_path: Path) -> None:
    settings = Settings.from_environment({"CATECHISM_CACHE": str(tmp_path), "CATECHISM_DEVICE": "cuda:0"})
    assert settings == Settings(cache=tmp_path, device="cuda:0")


def test_settings_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment({"CATECHISM_DEVICE": ""}).device is None
    assert Settings.from_environment({}).cache.name == "catechism"


def commands() -> dict[str, list[str]]:
    """Every command by its full name, with its options."""
    found: dict[str, list[str]] = {}

    def walk(command: object, name: str) -> None:
        if children := getattr(command, "commands", None):
            for child, inner in children.items():
                walk(inner, f"{name} {child}")
        else:
            found[name] = [
                option for parameter in command.params for option in parameter.opts if option.startswith("--")
            ]

    walk(typer.main.get_command(app), "catechism")
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_and_option_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert section, f"docs/cli.md has no section '## `{name}`'"
    missing = [option for option in commands()[name] if option not in section[1] and option not in {"--json", "--help"}]
    assert not missing, f"{name}: docs/cli.md does not name {missing}"


def test_every_setting_is_documented() -> None:
    variables = set(re.findall(r"CATECHISM_[A-Z]+", (PACKAGE / "settings.py").read_text(encoding="utf-8")))
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert variables and all(f"`{variable}`" in text for variable in variables)


def test_the_wheel_carries_data_and_error_pages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("catechism-*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert "catechism/_errors/E201.md" in names and "catechism/py.typed" in names
    inside = [path.relative_to(PACKAGE.parent).as_posix() for path in project_files() if PACKAGE in path.parents]
    assert set(inside) <= names
