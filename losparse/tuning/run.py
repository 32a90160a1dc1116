"""A search: forms are timed, few are trained, the best is built. What was found is kept, so that a search goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from losparse_export.costs import Call
from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.progress import SILENT, Progress
from losparse_runtime.contract.task import TASKS

from ..building.digests import Digests, code_digest, combine
from ..building.inputs import check_folder
from ..building.recipe import SHAPES, BuildRecipe
from ..building.run import BuildReport, build, run_steps
from ..building.steps import STEPS
from ..building.work import Tools, Work
from ..environment import machine, versions
from ..errors import LosparseError
from ..pipeline.job import CompressionJob
from .candidates import Group, Timed, block_count, groups, misses, nearest, time_group, timed_of, worth_training
from .halving import Round, halve
from .settings import Search

FOUND = "tune.json"
_CODE = ("losparse.methods", "losparse.training", "losparse.pipeline", "losparse.layers", "losparse_export")

TimeGroup = Callable[[Group, Any, BuildRecipe, Search, Call, Progress], list[Timed]]


@dataclass(frozen=True)
class TuneReport:
    """What a search came to.

    Attributes:
        folder: of the search, and of the build of its result.
        timed: every form that was timed.
        rounds: of training.
        best: the form that was chosen; None where none reaches the target.
        recipe: of the result; None where there is none.
        built: what the build of it came to; None where it was not built.
        nearest: the form that misses the target least, and by how much; None where one reaches it.
    """

    folder: Path
    timed: tuple[Timed, ...]
    rounds: tuple[Round, ...] = ()
    best: Timed | None = None
    recipe: BuildRecipe | None = None
    built: BuildReport | None = None
    nearest: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the target was reached, and the build passed its gates where it ran."""
        return self.best is not None and (self.built is None or self.built.passed)


@dataclass
class _Memory:
    """What a search found, in a file that grows."""

    file: Path
    timed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    trained: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> _Memory:
        try:
            data = json.loads(file.read_bytes())
            return cls(file, dict(data["timed"]), dict(data["trained"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return cls(file)

    def write(self) -> None:
        """Write all of it, whole or not at all."""
        write_json(self.file, {"format": 1, "timed": self.timed, "trained": self.trained})


def tune(
    recipe: BuildRecipe,
    out: str | Path,
    search: Search,
    *,
    builds: bool = True,
    progress: Progress = SILENT,
    tools: Tools | None = None,
    time_group: TimeGroup = time_group,
) -> TuneReport:
    """Search for the compression that reaches a target and costs the least accuracy, and build it.

    Forms are timed with random weights at the first shape of the recipe's bench. Of those that reach the target, the
    one of every structure, low-rank share and depth that keeps most is trained for a part of the steps, on the recipe's
    training texts, and measured on its validation texts; the better half goes on. The test texts are left to the build.

    Args:
        recipe: with `data.train`; of its `compress` the method, and the blocks that are kept, are searched.
        out: folder of the build; what the search found stands in its tune.json, from which it goes on.
        search: the target, and what is tried.
        builds: build the result.
        progress: shows the stages.
        tools: do the work of the build's steps.
        time_group: times forms.

    Raises:
        LosparseError: the recipe or the search is not right, or a step failed.
    """
    out, tools = Path(out), tools or Tools()
    if recipe.data.train is None:
        raise LosparseError("a search trains, so the recipe needs labelled texts as data.train, got none")
    check_folder(recipe, out)
    work = Work(recipe, out, progress, tools)
    run_steps([step for step in STEPS if step.name == "dense"], work)
    memory = _Memory.read(out / FOUND)
    timed = _time_all(work, search, memory, time_group)
    candidates = worth_training(timed, search)
    if not candidates:
        close = nearest(timed, search)
        return TuneReport(out, tuple(timed), nearest=f"{close.words} {misses(close, search)}")
    rounds = halve(candidates, lambda each, share: _train(work, each, share, memory), search.first_share)
    best = rounds[-1].kept[0] if rounds else candidates[0]
    chosen = recipe_of(recipe, best, search)
    built = build(chosen, out, progress=progress, tools=tools) if builds else None
    return TuneReport(out, tuple(timed), tuple(rounds), best, chosen, built)


def recipe_of(recipe: BuildRecipe, best: Timed, search: Search) -> BuildRecipe:
    """Return the recipe of a search's result: its form, the target as gates, and the precisions that reach it."""
    compress = replace(recipe.compress, method=best.group.method(best.keep), keep_layers=best.group.blocks)
    gates = replace(
        recipe.gates,
        max_latency_ms=search.target_latency or recipe.gates.max_latency_ms,
        min_speedup=search.target_speedup or recipe.gates.min_speedup,
        max_bytes=search.target_bytes or recipe.gates.max_bytes,
        max_accuracy_drop=recipe.gates.max_accuracy_drop if search.max_drop is None else search.max_drop,
    )
    export = replace(recipe.export, precision=(best.precision,))
    return replace(recipe, compress=compress, gates=gates, export=export)


def _time_all(work: Work, search: Search, memory: _Memory, time_one: TimeGroup) -> list[Timed]:
    """Time every group that was not timed yet."""
    from losparse_export.opening.config import read_config

    config = read_config(work.dense)
    shape = (work.recipe.bench.shapes or SHAPES)[0]
    call = Call(*shape, threads=work.recipe.bench.threads)
    digests = Digests(work.out / ".steps" / "digests.json")
    base = [
        ("config", digests.file(work.dense / "config.json")),
        ("machine", json.dumps([machine(), versions("onnxruntime", "torch")], sort_keys=True)),
        ("call", repr(call)),
        ("search", json.dumps([search.keeps, list(work.recipe.export.precision)])),
        ("code", code_digest("losparse_export", "losparse.methods", "losparse.random_factors")),
    ]
    found: list[Timed] = []
    for group in groups(search, block_count(config)):
        key = combine([*base, ("group", json.dumps(asdict(group), sort_keys=True))])
        if key not in memory.timed:
            rows = time_one(group, config, work.recipe, search, call, work.progress)
            memory.timed[key] = [row.to_dict() for row in rows]
            memory.write()
        found += [timed_of(row) for row in memory.timed[key]]
    return _over_all_blocks(found)


def _over_all_blocks(found: list[Timed]) -> list[Timed]:
    """Give forms of fewer blocks their speed-up over the dense model of all blocks, which was not timed with them.

    A dense model of half the blocks was; what one of all blocks takes is known from the groups that have them.
    """
    whole = [each.ms * each.speedup for each in found if each.group.blocks is None]
    if not whole:
        return found
    dense_ms = sorted(whole)[len(whole) // 2]
    return [each if each.group.blocks is None else replace(each, speedup=dense_ms / each.ms) for each in found]


def _train(work: Work, each: Timed, share: float, memory: _Memory) -> float:
    """Train one form for a share of the steps, unless that was done; returns its metric on the validation texts."""
    recipe, data = work.recipe, work.recipe.data
    training = recipe.compress.training
    shorter = replace(training, save_steps=None, **_length(training, share))
    compress = replace(
        recipe.compress, method=each.group.method(each.keep), keep_layers=each.group.blocks, training=shorter
    )
    digests = Digests(work.out / ".steps" / "digests.json")
    said = json.dumps(compress.to_dict(), sort_keys=True)
    parts: list[tuple[str, str | None]] = [("recipe", said), ("code", code_digest(*_CODE))]
    sources = {"train": data.train, "validation": data.validation, "dense": str(work.dense)}
    parts += [(name, digests.path(Path(source))) for name, source in sources.items() if source is not None]
    key = combine(parts)
    if key not in memory.trained:
        job = CompressionJob(
            work.dense,
            work.out / ".steps" / "tuned",
            compress,
            train=data.train,
            validation=data.validation,
            validation_share=data.validation_share,
            teacher=work.teacher,
            text_column=data.text_column,
            pair_column=data.pair_column,
            label_column=data.label_column,
            max_length=data.max_length,
            overwrite=True,
        )
        done = work.tools.compress(job, work.progress)
        memory.trained[key] = float(done.metrics[str(TASKS[compress.task].metric)])
        memory.write()
    return memory.trained[key]


def _length(training: Any, share: float) -> dict[str, Any]:
    if training.max_steps is not None:
        return {"max_steps": max(1, math.ceil(share * training.max_steps))}
    return {"epochs": share * training.epochs}
