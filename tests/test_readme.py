"""The README says what the results files say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_tables_are_those_of_the_results():
    done = subprocess.run([sys.executable, "benchmarks/readme.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run `python benchmarks/readme.py`"


def test_commands_exist():
    from losparse.cli.main import COMMANDS

    named = set(re.findall(r"^losparse (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named, "the README shows the commands"
    assert named <= set(COMMANDS)


def test_methods_and_extras_are_listed():
    import tomllib

    from losparse import METHODS

    text = (ROOT / "README.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f"`{name}`" in text for name in METHODS)
    assert all(f"`{name}`" in text for name in extras)
