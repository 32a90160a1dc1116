"""The report of a build: page, Markdown and JSON say the same numbers, whatever there is and is not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from losparse.errors import LosparseError
from losparse.reporting import collect_report, numbers, write_report
from losparse.reporting.markdown import LARGEST

from .made_up import facts, write


class Page(HTMLParser):
    """The tables of a page as text, by their names, and all that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.loads: list[str] = []
        self.words: list[str] = []
        self._rows: list[list[str]] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "table":
            self._rows = self.tables.setdefault(str(given["id"]), [])
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            self._cell = True
        loads = [value for name, value in given.items() if name in ("src", "srcset", "data", "action")]
        self.loads += [str(value) for value in loads]
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._cell:
            self._rows[-1][-1] += data


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = write(tmp_path / "build", facts())
    write_report(folder)
    return folder


def test_page_markdown_and_json_say_the_same(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report == json.loads(json.dumps(collect_report(out)))
    page, text = page_of(out), (out / "report.md").read_text()
    assert list(page.tables) and set(page.tables) == {table["name"] for table in report["tables"]}
    for table in report["tables"]:
        head, *rows = page.tables[table["name"]]
        assert head == table["columns"]
        assert rows == [[cell["text"] for cell in row] for row in table["rows"]]
        for row in table["rows"]:
            line = [re.sub(r"([|`*_\[\]\\~])", r"\\\1", cell["text"]).replace("<", "&lt;") for cell in row]
            assert all(cell in text for cell in line), line
    assert report["headline"] in page.words


def test_cells_show_the_numbers_that_were_measured(out: Path) -> None:
    data = json.loads((out / "build.json").read_text())
    table = next(table for table in collect_report(out)["tables"] if table["name"] == "models")
    rows = {row[0]["text"]: row for row in table["rows"]}
    for name, entry in data["models"].items():
        times = [each["median_ms"] for each in data["bench"]["results"] if each["model"] == name]
        values = [cell["value"] for cell in rows[name]]
        assert [value for value in values if value in times] == times
        assert entry["bytes"] is None or entry["bytes"] in values
    for row in table["rows"]:
        for cell in row[1:]:
            if cell["value"] is None:
                assert cell["text"] in ("", "yes", "no")
            else:  # what is shown is the number, to the digits that are shown
                shown = float(re.match(r"[-+\d.e]+", cell["text"])[0])  # type: ignore[index]
                scales = (1, 100, 1e-6)
                assert any(shown == pytest.approx(cell["value"] * scale, rel=0.01, abs=0.006) for scale in scales)


def test_the_sentence_says_what_came_of_it(out: Path) -> None:
    said = collect_report(out)["headline"]
    assert re.fullmatch(
        r"int8-static: [\d.]+x( to [\d.]+x)? as fast as dense fp32, [\d.]+x( to [\d.]+x)? as fast as the fastest dense "
        r"model, 20\.0 MB of 90\.9 MB, 0\.75 ± 0\.41 points below dense\.",
        said,
    )


def test_a_build_whose_gates_failed_has_a_page(tmp_path: Path) -> None:
    some = write(tmp_path / "some", facts(failed=("int8",)))
    write_report(some)
    assert collect_report(some)["passed"] is False and "failed" in page_of(some).words
    rows = {row[0]: row for row in page_of(some).tables["models"]}
    assert rows["int8"][1] == "no" and rows["fp32"][1] == "yes"
    data = facts(failed=("fp32", "int8", "int8-static"))
    data["models"]["int8-broken"] = {
        "kind": "variant", "precision": "int8", "file": None, "bytes": None, "parity": None, "accuracy": None,
        "passed": False, "failures": ["parity: differs from PyTorch by 3.2"],
    }  # fmt: skip
    none = write(tmp_path / "none", data)
    write_report(none)
    assert collect_report(none)["headline"].startswith("Nothing is shipped: every variant failed a gate.")
    assert ["int8-broken", "parity", "parity: differs from PyTorch by 3.2", "failed"] in page_of(none).tables["gates"]


@pytest.mark.parametrize("part", ["parts", "operators", "layers", "training", "keep"])
def test_what_was_not_measured_is_said_and_not_made_up(part: str, tmp_path: Path) -> None:
    data = facts()
    data["details"][part] = None
    folder = write(tmp_path / "out", data)
    write_report(folder)
    assert f'id="picture-{part}"' not in (folder / "report.html").read_text()
    assert len(collect_report(folder)["left_out"]) == 1


def test_a_build_of_which_nothing_was_measured_has_a_page(tmp_path: Path) -> None:
    data = facts() | {"metric": None, "texts": None, "bench": None, "details": None, "verdicts": []}
    for entry in data["models"].values():
        entry["accuracy"] = None
    folder = write(tmp_path / "out", data)
    write_report(folder)
    (table,) = [table for table in collect_report(folder)["tables"] if table["name"] == "models"]
    assert table["columns"] == ["model", "shipped", "size", "parity"]
    assert any("Accuracy was not measured" in line for line in collect_report(folder)["left_out"])


def test_names_are_shown_as_they_are_and_run_nothing(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> & *a* | `b`"
    data = facts(name=name)
    data["recipe"]["model"] = name
    folder = write(tmp_path / "out", data)
    write_report(folder)
    page = page_of(folder)
    assert page.loads == [] and name in page.words
    assert ["model", name] in page.tables["recipe"]
    text = (folder / "report.md").read_text()
    assert "<script>" not in text and r"\| \`b\`" in text


def test_the_page_needs_nothing_else_and_is_the_same_every_time(out: Path) -> None:
    text = (out / "report.html").read_text()
    assert page_of(out).loads == []
    outside = re.findall(r"(?:https?:)?//[\w.]+", re.sub(r'xmlns(:\w+)?="[^"]+"|<!DOCTYPE[^>]+>', "", text))
    assert outside == []
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write_report(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_a_comment_is_never_too_long(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", facts(blocks=200))
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert len(text.encode()) < LARGEST and "Not shown here, for their length: Layers" in text


def test_two_builds_side_by_side(out: Path, tmp_path: Path) -> None:
    data = facts(("fp32", "int8"), seed=5, name="before")
    data["recipe"]["compress"]["method"]["keep"] = 0.3
    other = write(tmp_path / "before", data)
    write_report(out, other)
    page = page_of(out)
    names = ["dense", "dense-int8", "openvino-int8", "fp32", "int8", "int8-static"]
    assert [row[0] for row in page.tables["compared"][1:]] == names  # the last is of one build alone
    assert page.tables["compared"][-1][2:4] == ["", ""]
    assert ["compress.method.keep", "0.2", "0.3"] in page.tables["recipes"]
    rows = {row[0]["text"]: row for row in collect_report(out, other)["tables"][0]["rows"]}
    ours, theirs = (json.loads((each / "build.json").read_text())["models"]["int8"] for each in (out, other))
    delta = ours["accuracy"]["value"] - theirs["accuracy"]["value"]
    assert rows["int8"][3]["value"] == pytest.approx(delta)
    assert "± 1.53" in rows["int8"][3]["text"]  # 1.08 of each, at right angles


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"models": {}}',
        '{"models": {"a": {}}, "format": 9}',
        '{"models": {"dense": 1}, "format": 1}',
        '{"models": {"dense": {"kind": "baseline"}}, "format": 1}',
    ],
)
def test_what_is_no_build_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "build.json").write_text(content)
    with pytest.raises(LosparseError, match=r"has no build\.json|is damaged|has format 9"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_report_loads_no_torch(out: Path) -> None:
    code = f"import sys; from losparse import write_report; write_report({str(out)!r}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'torch'" not in done.stdout and "'transformers'" not in done.stdout


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.points(0.88341), "88.34"),
        (numbers.plus_minus(-0.00749, 0.0041, signed=True), "-0.75 ± 0.41"),
        (numbers.signed_points(-0.000001), "+0.00"),
        (numbers.milliseconds(0.04567), "0.0457 ms"),
        (numbers.milliseconds(180.3), "180 ms"),
        (numbers.megabytes(15_020_000), "15.0 MB"),
        (numbers.megabytes(1_234_000), "1.23 MB"),
        (numbers.times(4.866), "4.87x"),
        (numbers.times(12.63), "12.6x"),
        (numbers.seconds(130), "2.2 min"),
        (numbers.small(1.34e-6), "1.3e-06"),
        (numbers.points(None), ""),
    ],
)
def test_numbers_are_rounded_in_one_way(shown: str, expected: str) -> None:
    assert shown == expected


Box = tuple[float, float, float, float]


def _boxes(data: dict[str, Any]) -> dict[str, list[tuple[str, Box]]]:
    """Every text of every picture with its box as it is painted: left, right, top, bottom, in pixels."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from losparse.reporting.facts import Facts
    from losparse.reporting.pictures import sketches
    from losparse.reporting.style import SETTINGS, WIDTH

    found: dict[str, list[tuple[str, Box]]] = {}
    for sketch in sketches(Facts(data)):
        with rc_context(SETTINGS):
            figure = Figure(figsize=(WIDTH, sketch.height), layout="constrained")
            canvas = FigureCanvasAgg(figure)
            sketch.draw(Facts(data), figure)
            canvas.draw()  # the layout is made with it
            renderer: Any = canvas.get_renderer()
            paint, boxes = renderer.draw_text, found.setdefault(sketch.name, [])

            def record(
                gc: Any, x: float, y: float, text: str, prop: Any, angle: float, *more: Any,
                renderer: Any = renderer, paint: Any = paint, boxes: Any = boxes, **options: Any,
            ) -> None:  # fmt: skip
                width, height, below = renderer.get_text_width_height_descent(text, prop, False)
                upright = (x, x + width, y - height + below, y + below)
                boxes.append((text, upright if not angle else (x - height, x, y - width, y)))
                paint(gc, x, y, text, prop, angle, *more, **options)

            renderer.draw_text = record
            figure.draw(renderer)
    return found


@pytest.mark.parametrize("blocks", [2, 6, 12, 24])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_no_labels_overlap(blocks: int, count: int) -> None:
    names = (
        "fp32",
        "int8",
        "int8-vnni",
        "int8-static",
        "int8-weights",
        "int4-weights",
        "fp16",
        "a-name-of-mine",
    )
    for picture, texts in _boxes(facts(names[:count], blocks=blocks)).items():
        assert len(texts) > 5
        for place, (text, box) in enumerate(texts):
            for other, its in texts[place + 1 :]:
                width = min(box[1], its[1]) - max(box[0], its[0])
                height = min(box[3], its[3]) - max(box[2], its[2])
                # Boxes have air around their letters: a touch of one pixel is none of the letters.
                assert width <= 1 or height <= 1, f"{picture}: {text!r} and {other!r} overlap"


def test_builds_of_other_metrics_are_not_subtracted(out: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", facts() | {"metric": "pearson"})
    (table, *_) = collect_report(out, other)["tables"]
    assert table["columns"][1:3] == ["accuracy here", "pearson there"] and "difference" not in table["columns"]


def test_times_of_a_disturbed_machine_are_marked(tmp_path: Path) -> None:
    data = facts()
    data["bench"]["results"][0]["noisy"] = True
    folder = write(tmp_path / "out", data)
    write_report(folder)
    (table,) = [table for table in collect_report(folder)["tables"] if table["name"] == "models"]
    (noisy,) = [cell for row in table["rows"] for cell in row if cell.get("mark") == "noisy"]
    assert noisy["text"].endswith(" ms *") and "not to be quoted" in table["note"]
    low, high = ((cell["low"], cell["high"]) for cell in table["rows"][1] if "low" in cell).__next__()
    assert low < high


def test_the_sentence_names_what_is_not_shipped(tmp_path: Path) -> None:
    folder = write(tmp_path / "out", facts(failed=("int8",)))
    assert collect_report(folder)["headline"].endswith("points below dense. Not shipped: int8.")
