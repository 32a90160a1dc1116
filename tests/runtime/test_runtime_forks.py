"""A session in a process that was forked from the one that opened it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import losparse_runtime

# The child writes to a pipe what it saw; the parent waits for it, and says how it ended.
PROGRAM = """
import os, sys
from losparse_runtime import RunError, Session
session = Session(sys.argv[1], threads=4)
before = session.classify("a b")[0].label
if os.fork() == 0:
    CHILD
    sys.stdout.flush()
    sys.exit(0)
print("ended", os.wait()[1], session.classify("a b")[0].label == before)
"""


def run(child: str, folder: Path) -> list[str]:
    """What child and parent print, with a program of its own: this one has threads of many others."""
    environment = {**os.environ, "PYTHONPATH": str(Path(losparse_runtime.__file__).parents[1])}
    program = PROGRAM.replace("CHILD", child)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("call", ["classify('a b')", "run({})"])
def test_a_child_is_told_and_ends(make_folder: Callable[..., Any], call: str) -> None:
    child = f"""
    try:
        session.{call}
    except RunError as error:
        print(error)
"""
    told, ended = run(child.strip(), make_folder().path)
    assert "was opened in process" in told and "open a Session in each process, after the fork" in told
    assert ended == "ended 0 True"


def test_a_child_that_does_nothing_ends(make_folder: Callable[..., Any]) -> None:
    assert run("pass", make_folder().path) == ["ended 0 True"]


def test_a_child_may_open_its_own(make_folder: Callable[..., Any]) -> None:
    child = "print(Session(sys.argv[1], threads=4).classify('a b')[0].label == before)"
    assert run(child, make_folder().path) == ["True", "ended 0 True"]


def test_a_child_that_closes_it_ends_and_its_parent_goes_on(make_folder: Callable[..., Any]) -> None:
    child = """
    session.close()
    print(session.closed)
"""
    assert run(child.strip(), make_folder().path) == ["True", "ended 0 True"]
