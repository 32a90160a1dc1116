"""A build: every step that is not done yet, in order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from losparse_runtime.contract.progress import SILENT, Advance, Progress

from ..errors import LosparseError
from .cache import FOLDER, Record, differences, forget, read_record, write_record
from .digests import Digests, combine
from .inputs import check_folder
from .recipe import BuildRecipe
from .steps import STEPS, Step
from .work import Tools, Work

_UNTIL_DONE = "{} runs again, and may write something else"


@dataclass(frozen=True)
class Planned:
    """What a build does about one step.

    Attributes:
        step: its name.
        does: in words.
        state: "done", "runs", "may run" where it hangs on what a step before it writes, or "none" where the recipe has
            no such step.
        reasons: why it runs.
    """

    step: str
    does: str
    state: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class BuildReport:
    """What a build came to.

    Attributes:
        folder: of the build.
        facts: contents of `build.json`.
        ran: names of the steps that ran, with seconds.
        shipped: names of the variants that passed every gate, which are those in `folder`/onnx.
        failures: why the others did not, one line each.
    """

    folder: Path
    facts: Mapping[str, Any]
    ran: Mapping[str, float] = field(default_factory=dict)
    shipped: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every variant of the recipe passed every gate."""
        return not self.failures


def build(
    recipe: BuildRecipe | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    start: str | None = None,
    progress: Progress = SILENT,
    tools: Tools | None = None,
) -> BuildReport:
    """Do what a recipe says, all of it that was not done yet.

    Args:
        recipe: what to do, or a file of it.
        out: folder to write, new or of an earlier build, whose steps are done again where something changed.
        overrides: more keys and values for a file, as in "compress.method.keep=0.3".
        start: name of a step that runs again with all that follow it, whatever changed.
        progress: shows the stages.
        tools: do the work of the steps.

    Returns:
        What came of it. Variants that failed a gate are in `failures`, and not in the folder.

    Raises:
        LosparseError: the recipe is not right, something cannot be read, `out` is another folder's place, another build
            is at work in it, or a step failed; steps that are done stay done.
    """
    recipe, out = read_recipe(recipe, overrides), Path(out)
    check_start(start)
    check_folder(recipe, out)
    ran = run_steps(STEPS, Work(recipe, out, progress, tools or Tools()), start=start)
    return _report(out, ran)


def run_steps(steps: Sequence[Step], work: Work, *, start: str | None = None) -> dict[str, float]:
    """Do every step that is not done yet, or not as it would be now.

    Args:
        steps: in order.
        work: what they share.
        start: name of a step that runs again with all that follow it.

    Returns:
        Seconds of the steps that ran, by name.

    Raises:
        LosparseError: another build is at work in the folder, or a step failed.
    """
    recipe, out = work.recipe, work.out
    ran: dict[str, float] = {}
    with _locked(out):
        _clear(out)
        _drop_others(steps, recipe, out)
        digests = Digests(out / FOLDER / "digests.json")
        done: dict[str, str] = {}
        wanted = [step for step in steps if step.settings(recipe) is not None]
        again = False
        for place, step in enumerate(wanted, start=1):
            again = again or step.name == start
            parts = step.parts(recipe, digests, done)
            record = read_record(out, step.name)
            if record is None or again or _reasons(step, record, parts, out, digests):
                whole = _Whole(work.progress, f"{place}/{len(wanted)} {step.name}")
                record = _do(step, parts, replace(work, progress=whole), digests)
                ran[step.name] = record.seconds
            done[step.name] = record.digest
            digests.save()
    return ran


def plan_build(
    recipe: BuildRecipe | str | Path,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    start: str | None = None,
) -> list[Planned]:
    """Say what `build` would do and why, without doing it.

    Args:
        recipe: see `build`, as for the others.
        out: it may be missing.
        overrides: see there.
        start: see there.

    Raises:
        LosparseError: the recipe is not right, or something cannot be read.
    """
    recipe, out = read_recipe(recipe, overrides), Path(out)
    check_start(start)
    check_folder(recipe, out)
    return plan_steps(STEPS, recipe, out, start=start)


def plan_steps(steps: Sequence[Step], recipe: BuildRecipe, out: Path, *, start: str | None = None) -> list[Planned]:
    """Say of every step what `run_steps` would do about it, and why.

    Args:
        steps: in order.
        recipe: of the build.
        out: its folder, which may be missing.
        start: see `run_steps`.
    """
    digests, done = Digests(out / FOLDER / "digests.json"), dict[str, str]()
    planned: list[Planned] = []
    again: list[str] = []
    forced = False
    for step in steps:
        if step.settings(recipe) is None:
            planned.append(Planned(step.name, step.does, "none", ()))
            continue
        forced = forced or step.name == start
        record = read_record(out, step.name)
        reasons = [f"--from {start}"] if forced else []
        if record is None:
            reasons.append("it was not done yet")
        else:
            # What a step before it will write is not known yet: it is taken to be what it was, and said below.
            before = {name: record.parts.get("after", {}).get(name, "") for name in again if name in step.after}
            reasons += _reasons(step, record, step.parts(recipe, digests, {**done, **before}), out, digests)
            done[step.name] = record.digest
        waits = [_UNTIL_DONE.format(name) for name in step.after if name in again]
        if reasons or waits:
            again.append(step.name)
        planned.append(Planned(step.name, step.does, *_state(reasons, waits)))
    return planned


def _state(reasons: Sequence[str], waits: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    if reasons:
        return "runs", tuple(reasons)
    return ("may run", tuple(waits)) if waits else ("done", ())


def read_recipe(recipe: BuildRecipe | str | Path, overrides: Sequence[str] = ()) -> BuildRecipe:
    """Return a recipe, of its file where a path is given.

    Raises:
        LosparseError: it is not right, or there are overrides and no file to put them over.
    """
    if not isinstance(recipe, BuildRecipe):
        return BuildRecipe.read(Path(recipe), overrides)
    if overrides:
        raise LosparseError("overrides= is for the file of a recipe; change the BuildRecipe itself")
    return recipe


def check_start(start: str | None) -> None:
    """Refuse a step that there is none of.

    Raises:
        LosparseError: see above.
    """
    names = [step.name for step in STEPS]
    if start is not None and start not in names:
        raise LosparseError(f"start= (--from) must be one of {', '.join(names)}, got {start!r}")


def _reasons(step: Step, record: Record, parts: Mapping[str, Any], out: Path, digests: Digests) -> list[str]:
    """Return why a step that was done is done again; none where all is as it was."""
    found = differences(record.parts, parts)
    if _digest(step, out, digests) != record.digest:
        found.append(f"{' or '.join(step.writes)} is not as it was written")
    return found


def _digest(step: Step, out: Path, digests: Digests) -> str:
    return combine((name, digests.path(out / name)) for name in step.writes)


def _do(step: Step, parts: Mapping[str, Any], work: Work, digests: Digests) -> Record:
    forget(work.out, step.name)
    started = time.perf_counter()
    step.run(work)
    record = Record(parts, _digest(step, work.out, digests), time.perf_counter() - started)
    write_record(work.out, step.name, record)
    return record


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold OUT for one build."""
    try:
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        stream = (out / FOLDER / "lock").open("w")
    except OSError as error:
        raise LosparseError(f"'{out}' cannot be written ({error.strerror}); choose another OUT") from error
    with stream:
        try:
            _hold(stream)
        except OSError as error:
            raise LosparseError(f"another build is at work in '{out}'; wait for it, or choose another OUT") from error
        yield


def _hold(stream: TextIO) -> None:
    """Lock a file for this process, on systems that have such locks."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _clear(out: Path) -> None:
    """Remove what a build that was killed left half-written."""
    for place in (out, out / FOLDER):
        for path in place.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        for path in place.glob(".*.old"):
            shutil.rmtree(path, ignore_errors=True)


def _drop_others(steps: Sequence[Step], recipe: BuildRecipe, out: Path) -> None:
    """Remove what steps wrote that the recipe has no more: a page would show it as if it were of this build."""
    for step in steps:
        if step.settings(recipe) is None and read_record(out, step.name) is not None:
            forget(out, step.name)
            for name in step.writes:
                path = out / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _report(out: Path, ran: Mapping[str, float]) -> BuildReport:
    import json

    from .verdict import BUILD

    facts = json.loads((out / BUILD).read_bytes())
    variants = {name: entry for name, entry in facts["models"].items() if entry["kind"] == "variant"}
    shipped = tuple(name for name, entry in variants.items() if entry["passed"])
    failures = tuple(line for entry in variants.values() for line in entry["failures"])
    return BuildReport(out, facts, ran, shipped, failures)


@dataclass(frozen=True)
class _Whole:
    """A progress that says of which step its stages are, and which of how many that is."""

    inner: Progress
    step: str

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Show a stage; see `Progress`."""
        return self.inner.stage(f"[{self.step}] {title}", total)
