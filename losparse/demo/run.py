"""The whole way on a real model and real texts that need no files of the user's: a recipe, and the build of it.

The texts are the docstrings of Python's standard library, to be told apart by the group of modules they come from. They
are written into the demo's folder as files of a user would be. Accuracy is that on the test part, used once.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from losparse_runtime.contract.progress import SILENT, Progress

from ..building.cache import FOLDER
from ..building.inputs import check_out_folder
from ..building.recipe import Bench, BuildRecipe, Data, Gates, Shapes
from ..building.run import BuildReport, build
from ..building.work import Tools
from ..data.examples import Examples
from ..methods import LoSparse
from ..training.recipe import Recipe, Training
from .docstrings import DocstringData, load_docstrings
from .model import find_minilm

DENSE_STEPS, COMPRESSED_STEPS = 200, 240


@dataclass(frozen=True)
class DemoSetup:
    """What the demo is made of.

    Attributes:
        find_model: returns the folder of the dense model.
        load_data: returns the texts.
        tools: do the work of the steps.
        max_length: tokens of a text; 95 of 100 docstrings are shorter.
        shapes: texts in a run and tokens in a text, for the times; None for those of every build.
        keep: shares for the picture of latency against keep.
    """

    find_model: Callable[[], Path] = find_minilm
    load_data: Callable[[], DocstringData] = load_docstrings
    tools: Tools | None = None
    max_length: int = 48
    shapes: Shapes | None = None
    keep: tuple[float, ...] = Bench().keep


def run_demo(
    out: str | Path, *, steps: int | None = None, setup: DemoSetup | None = None, progress: Progress = SILENT
) -> BuildReport:
    """Write texts and a recipe into a folder, and build it.

    Args:
        out: folder to write, new or of an earlier demo, of which what is done stays done.
        steps: of each training; None for those that the demo's figures are for.
        setup: what it is made of.
        progress: shows the stages.

    Raises:
        LosparseError: the model cannot be fetched, there are too few texts, or `out` is another folder's place.
    """
    out, setup = Path(out), setup or DemoSetup()
    check_out_folder(out)
    with progress.stage("fetching MiniLM"):
        model = setup.find_model()
    with progress.stage("reading docstrings"):
        parts = setup.load_data()._asdict()
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, examples in parts.items():
        _write(out / "data" / f"{name}.jsonl", examples)
    return build(make_recipe(model, out / "data", setup, steps), out, progress=progress, tools=setup.tools)


def make_recipe(model: Path, data: Path, setup: DemoSetup, steps: int | None = None) -> BuildRecipe:
    """Return the demo's recipe: LoSparse starts from the fine-tuned dense model, and imitates it.

    Args:
        model: folder of the dense model.
        data: folder of the texts.
        setup: what the demo is made of.
        steps: of each training; None for those that the demo's figures are for.
    """
    train, validation, test = (str(data / f"{name}.jsonl") for name in ("train", "validation", "test"))
    training = Training(max_steps=steps or COMPRESSED_STEPS, learning_rate=3e-4, distill_weight=0.5)
    return BuildRecipe(
        model=str(model),
        name="MiniLM, docstrings told apart",
        data=Data(train=train, validation=validation, test=test, max_length=setup.max_length),
        dense=Training(max_steps=steps or DENSE_STEPS, learning_rate=2e-4),
        compress=Recipe(method=LoSparse(keep=0.2), training=training),
        bench=Bench(shapes=setup.shapes, keep=setup.keep),
        # A demo that is cut short learns little, and shall still show its page; of a whole one 1.1 points were seen.
        gates=Gates() if steps else Gates(max_accuracy_drop=5.0, min_speedup=1.5),
    )


def _write(file: Path, examples: Examples) -> None:
    """Write labelled texts as a user would have them; a file that says the same already stays."""
    rows = zip(examples.texts, examples.labels, strict=True)
    lines = [
        json.dumps({"text": text, "label": examples.label_names[label]}, ensure_ascii=False) for text, label in rows
    ]
    content = "\n".join(lines) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") == content:
        return
    file.parent.mkdir(exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(file)
