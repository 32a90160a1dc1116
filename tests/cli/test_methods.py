"""`losparse methods`: every method, in lines that fit."""

from __future__ import annotations

import json
from pathlib import Path

from losparse.methods import METHODS, NO_METHOD

from .conftest import Command


def test_methods_are_listed_in_lines_that_fit(losparse: Command, tmp_path: Path) -> None:
    done = losparse("methods", "--json", tmp_path / "methods.json")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 120
    assert all(sum(line.split()[0] == name for line in lines) == 2 for name in (*METHODS, NO_METHOD))
    listed = {row["name"]: row for row in json.loads((tmp_path / "methods.json").read_text())["methods"]}
    assert list(listed) == [*METHODS, NO_METHOD]
    assert (listed["svd"]["needs"], listed["fwsvd"]["needs"]) == ("nothing", "labels, gradients")
    assert all(row[key] for row in listed.values() for key in ("summary", "needs", "cost", "reference"))
    losparse("methods", "--json", tmp_path / "no" / "methods.json").refused("--json")
