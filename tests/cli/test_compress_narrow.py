"""`losparse compress --structure narrow`, with a rank part by kind of layer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .conftest import Command

FLAGS = ("--max-steps", 8, "--no-freeze-embeddings", "--keep", 0.15, "--structure", "narrow")
SHARES = ("--low-rank", "attention=0.05", "ffn=0")


def test_heads_are_in_the_report_and_in_what_inspect_prints(
    compress_into: Any, losparse: Command, tmp_path: Path
) -> None:
    done = compress_into(*FLAGS, *SHARES)
    assert done.code == 0, done.err
    heads = re.findall(r"^bert\.encoder\.layer\.\d\.attention: heads (\d) of 2, \d+ \+ \d+ wide$", done.out, re.M)
    assert len(heads) == 2
    report = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    assert report["recipe"]["method"]["low_rank"] == {"attention": 0.05, "ffn": 0.0}
    assert all(line in done.out for line in report["compression"]["attentions"])
    shown = losparse("inspect", tmp_path / "out")
    assert shown.code == 0 and len(re.findall(r"heads \d of 2, \d+ wide", shown.out)) == 8
