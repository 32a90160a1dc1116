"""`losparse doctor`: a line a finding, JSON, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

from ..runtime.conftest import MakeFolder, make_folder
from .conftest import Command, loaded_by

__all__ = ["make_folder"]  # a fixture of the runtime's tests


def test_a_line_a_finding_and_the_same_as_json(losparse: Command, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, file = make_folder().path, tmp_path / "doctor.json"
    done = losparse("doctor", folder, "--json", file)
    assert (done.code, done.err) == (0, "")
    found = json.loads(file.read_text())
    lines = done.out.splitlines()
    assert len(lines) == len(found["findings"])
    for line, finding in zip(lines, found["findings"], strict=True):
        assert line.split()[0] == finding["level"] and f"{finding['about']}: {finding['said']}" in line
    assert found["passed"] and any(str(folder) in line and "variant fp32, the only one" in line for line in lines)


def test_a_problem_is_exit_code_1(losparse: Command, make_folder: MakeFolder, tmp_path: Path) -> None:
    done = losparse("doctor", make_folder().path, tmp_path / "nowhere")
    assert (done.code, done.err) == (1, "")
    (line,) = (line for line in done.out.splitlines() if line.startswith("problem"))
    assert line.startswith(f"problem  {tmp_path / 'nowhere'}: ") and "no such folder" in line


def test_a_provider_is_written_as_everywhere(losparse: Command, make_folder: MakeFolder) -> None:
    folder = make_folder().path
    for command in (("doctor",), ("run", "a"), ("bench", "--no-memory")):
        name, *rest = command
        done = losparse(name, folder, *rest, "--provider", "CPUExecutionProvider:arena=1")
        said = done.err or done.out
        assert done.code in (1, 2) and "CPUExecutionProvider has no option 'arena', it has none; leave it out" in said
        losparse(name, folder, *rest, "--provider", "CPUExecutionProvider:").refused(
            "a provider must be NAME or NAME:opt"
        )


def test_a_json_file_that_cannot_be_written_is_refused_first(losparse: Command, tmp_path: Path) -> None:
    losparse("doctor", "--json", tmp_path / "no" / "x.json").refused("--json must be a file in an existing folder")


def test_no_torch_is_loaded(make_folder: MakeFolder) -> None:
    program = f"from losparse.cli.main import main; main(['doctor', {str(make_folder().path)!r}])"
    assert not loaded_by(program) & {"torch", "transformers"}
