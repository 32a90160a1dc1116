"""Tables, progress and JSON files."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest

from losparse.cli import output
from losparse.cli.output import human_bytes, print_table
from losparse.cli.periodic import PeriodicLine
from losparse.cli.progress import StderrProgress
from losparse.environment import machine, versions
from losparse_runtime.contract.files import write_json


def test_a_plain_table_is_aligned_and_has_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", ["name", "size", "text"], [["a", "1", "x"], ["long", "22", "y\n\tz"]], left=(0, 2))
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "name  size  text",
        "a        1  x",
        "long    22  y z",
    ]


class Terminal:
    """A stream that claims to be a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("width", ["30", "200"])
def test_a_table_on_a_terminal_keeps_brackets_and_fits(monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", width)
    print_table("[title]", ["name", "[b]size"], [["a.very.long.name.of.a.layer", "[red]"]], out=terminal)
    assert "[red]" in terminal.text and "[title]" in terminal.text
    visible = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
    assert max(map(len, visible.splitlines())) <= int(width)


def test_progress_draws_on_a_terminal_and_leaves_stdout_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    with StderrProgress(verbose=False, terminal=terminal).stage("working", 3) as advance:
        advance(1)
        advance(1, total=4, title="working on")
        print("result")
    assert "working on" in terminal.text
    assert capsys.readouterr().out == "result\n"


def test_progress_is_silent_elsewhere_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for verbose in (False, True):
        progress = StderrProgress(verbose=verbose)
        with progress.stage("working", 3) as advance:
            advance(1, total=4, title="on")
        assert capsys.readouterr().err.startswith("losparse: working: ") is verbose


class Time:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_long_stage_says_a_line_a_minute() -> None:
    clock, lines = Time(), list[str]()
    pulse = PeriodicLine("training", None, clock=clock, say=lines.append)
    pulse.advance(100, total=900)  # resumed: 100 steps were done before
    for _ in range(8):
        clock.now += 20.0
        pulse.advance(10)
        pulse.advance(0, note="loss 0.4312")
    # 30 steps a minute: after the first 770 are left, 25 minutes and 40 s.
    times = [1_000_000.0 + 60.0 * minute + 2.0 * left for minute, left in ((1, 770), (2, 740))]
    ends = [time.strftime("%H:%M", time.localtime(each)) for each in times]
    assert lines == [
        f"losparse: training: 130 of 900 (14%), loss 0.4312, ends about {ends[0]}",
        f"losparse: training: 160 of 900 (18%), loss 0.4312, ends about {ends[1]}",
    ]
    pulse.advance(-180, total=50, title="measuring")
    clock.now += 60.0
    pulse.advance(5)
    assert lines[2].startswith("losparse: measuring: 5 of 50 (10%), ends about ")


def test_a_stage_that_reports_nothing_says_that_it_runs() -> None:
    clock, lines = Time(), list[str]()
    pulse = PeriodicLine("exporting", None, clock=clock, say=lines.append)
    pulse.beat()
    assert lines == []
    clock.now += 185.0
    pulse.beat()
    pulse.beat()
    assert lines == ["losparse: exporting: 3 min so far"]


def test_lines_come_from_every_stage_without_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    clock, pause = Time(), threading.Event()
    progress = StderrProgress(verbose=False, every_s=0.01, clock=clock)
    with progress.stage("working"):
        for _ in range(1000):  # the thread beats by itself, as soon as the clock says that it is time
            clock.now += 1.0
            if not pause.wait(0.01) and "losparse: working: " in capsys.readouterr().err:
                break
        else:
            pytest.fail("no line")
    assert not [thread for thread in threading.enumerate() if thread.name == "losparse progress"]


def test_a_stage_that_fails_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = StderrProgress(verbose=True)
    with pytest.raises(ValueError, match="x"), progress.stage("working"):
        raise ValueError("x")
    assert capsys.readouterr().err == ""


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"ä": 1})
    assert json.loads(file.read_text(encoding="utf-8")) == {"ä": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(file, {"a": [1, float("nan")]})
    assert json.loads(file.read_text(encoding="utf-8")) == {"ä": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (49_232, "49.2 kB"), (91e6, "91.0 MB"), (2e12, "2000.0 GB")],
)
def test_sizes(count: int, shown: str) -> None:
    assert human_bytes(int(count)) == shown


def test_machine_and_versions() -> None:
    assert machine()["cpu"] and int(machine()["cpus"]) >= 1
    assert set(versions("numpy", "no-such-package")) == {"python", "losparse", "numpy"}


def test_the_name_of_the_processor_where_linux_does_not_say(tmp_path: Path) -> None:
    assert machine(tmp_path / "none")["cpu"]
    assert output.human_bytes(1) == "1 B"
