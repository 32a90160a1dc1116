"""What `losparse compress` refuses without loading torch, which takes seconds: all that paths and settings show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .conftest import Sources, loaded_by

TRAIN = ("--train", "train.csv")


def test_mistakes_are_answered_before_torch_is_loaded(sources: Sources, tmp_path: Path) -> None:
    shutil.copytree(sources.model, tmp_path / "model")
    shutil.copy(sources.train, tmp_path / "train.csv")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("of somebody")
    (tmp_path / "bare").mkdir()
    (tmp_path / "typo.json").write_text(json.dumps({"methd": {"name": "svd"}}))
    calls = {
        "OUT 'there' exists": ("model", "there", *TRAIN),
        "no data file 'none.csv'": ("model", "out", "--train", "none.csv"),
        "no data file 'none.txt'": ("model", "out", "--method", "rom", "--calibration", "none.txt"),
        "unknown key 'methd'": ("model", "out", *TRAIN, "--recipe", "typo.json"),
        "--json must be a file in an existing folder": ("model", "out", *TRAIN, "--json", "none/report.json"),
        "--low-rank": ("model", "out", "--method", "svd", "--low-rank", "0.1"),
        "model folder 'none' does not exist": ("none", "out", *TRAIN),
        "has no config.json": ("bare", "out", *TRAIN),
    }
    program = (
        "import contextlib, io, os, sys\n"
        "from losparse.cli.main import main\n"
        f"os.chdir({str(tmp_path)!r})\n"
        f"for words, arguments in {calls!r}.items():\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said:\n"
        "        assert main(['compress', *arguments]) == 2, arguments\n"
        "    assert words in said.getvalue(), said.getvalue()\n"
        "    assert 'torch' not in sys.modules, arguments\n"
    )
    assert not loaded_by(program) & {"torch", "transformers"}
    assert not (tmp_path / "out").exists()
