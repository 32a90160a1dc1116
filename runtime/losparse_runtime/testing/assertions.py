"""What a test asserts of an exported folder: that it is its model, that it is right, and that it is fast.

Each raises an AssertionError whose first line says what failed and by how much; a folder or file that cannot be read is
another error, as of a `Session`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..checking.against_golden import check_golden
from ..checking.report import CheckReport
from ..contract.files import read_folder
from ..contract.task import TASKS
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.cpus import int8_overflows
from ..engine.options import Provider
from ..errors import DependencyError, InputError
from ..session import Session
from ..timing.ratio import DEFAULT_RATIO, RatioVerdict, compare_latency
from .rows import Labelled, read_labelled

REFERENCES = "losparse_runtime.references"
"""Entry points that check a folder against a checkpoint; losparse_export has one."""
GOLDEN = ".npz"

Data = Path | str | Iterable[tuple[str, str]]
"""A file of labelled texts, or pairs of a text and its label."""
Record = Callable[[str, object], None]
"""Is told a number that was measured, by its name: pytest's `record_property`."""


@dataclass(frozen=True)
class Accuracy:
    """How right a folder is.

    Attributes:
        right: texts whose class is their label.
        texts: all of them.
    """

    right: int
    texts: int

    @property
    def value(self) -> float:
        """Share of right answers."""
        return self.right / self.texts

    @property
    def error(self) -> float:
        """Standard error of that share."""
        return math.sqrt(self.value * (1 - self.value) / self.texts)

    def __str__(self) -> str:
        """Value, error and number of texts."""
        return f"{self.value:.4f} (standard error {self.error:.4f}, {self.right:,} of {self.texts:,} texts)"


def assert_parity(
    folder: Path | str,
    reference: Path | str,
    *,
    variant: str | None = None,
    threads: int | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    record: Record | None = None,
) -> CheckReport:
    """Assert that a folder is as it was written, reads texts as its reference does, and gives the same numbers.

    Args:
        folder: that `losparse export` wrote.
        reference: golden outputs (`losparse golden`), which need no torch; or a checkpoint, or another ONNX folder, for
            which losparse_export must be installed.
        variant: the only one to look at; by default every one that this CPU can run.
        threads: see `Session`.
        providers: see `Session`.
        record: is told what was measured, also where the assertion fails.

    Returns:
        What was found.

    Raises:
        AssertionError: something differs.
        DependencyError: the reference needs losparse_export, which is not installed.
    """
    __tracebackhide__ = True
    if Path(reference).suffix == GOLDEN:
        report = check_golden(folder, reference, variant=variant, threads=threads, providers=providers)
    else:
        report = _checker()(folder, reference, variant=variant, threads=threads, providers=providers)
    for name, number in _numbers_of(report):
        _tell(record, name, number)
    lines = failures_of(report)
    if lines:
        raise AssertionError("\n".join([f"{folder} is not the model of {reference}: {lines[0]}", *lines[1:]]))
    return report


def failures_of(report: CheckReport) -> list[str]:
    """Return a line for everything that a check found wrong, in every variant."""
    lines = list(report.differences)
    judged = report.judgement
    for kind, part in report.parts.items():
        if part.passed or judged is None:
            continue
        parity = part.parity
        largest = f"{parity.max_abs:.2e}" if parity.finite else "NaN or infinity"
        said = f"outputs on {kind} differ from {judged.against} by up to {largest}, allowed is {judged.tolerance:.1e}"
        if judged.cosine is not None:
            said += f"; cosine {parity.centred_cosine:.4f}, allowed is {judged.cosine} or more"
        layer = "" if part.first_layer is None else f"; the first layer that differs is {part.first_layer}"
        lines.append(said + layer)
    for name, other in report.others.items():
        lines += [f"variant {name}: {line}" for line in failures_of(other)]
    return lines


def assert_accuracy(
    folder: Path | str,
    data: Data,
    *,
    at_least: float,
    variant: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 32,
    threads: int | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    record: Record | None = None,
) -> dict[str, Accuracy]:
    """Assert that a folder that classifies texts is right often enough.

    Args:
        folder: that `losparse export` wrote, for text classification.
        data: csv, tsv or jsonl of labelled texts, or pairs of a text and its label; labels are names or class ids.
        at_least: share of right answers that is asked.
        variant: the only one to look at; by default every one that this CPU can run.
        text_column: of the texts; None for the usual names.
        pair_column: of second texts; None for the usual names.
        label_column: of the labels; None for the usual names.
        batch_size: texts in a run; int8 answers may hang on it.
        threads: see `Session`.
        providers: see `Session`.
        record: is told what was measured, also where the assertion fails.

    Returns:
        Accuracy by variant.

    Raises:
        AssertionError: a variant is right less often.
        InputError: the data cannot be read, has a label that the model has not, or the folder does not classify texts.
    """
    __tracebackhide__ = True
    if not 0 <= at_least <= 1:
        raise InputError(f"at_least must be a share of right answers in [0, 1], got {at_least!r}")
    rows = (
        read_labelled(data, text_column, pair_column, label_column) if isinstance(data, Path | str) else _labelled(data)
    )
    found, lines = {}, []
    for name in _variants(folder, variant):
        session = Session(folder, providers=providers, threads=threads, variant=name)
        found[name] = measure_accuracy(session, rows, batch_size=batch_size)
        _tell(record, f"accuracy of {name}", str(found[name]))
        if found[name].value < at_least:
            lines.append(f"variant {name}: accuracy {found[name]}, at least {at_least:g} is asked")
    if lines:
        raise AssertionError("\n".join([f"{folder}: {lines[0]}", *lines[1:]]))
    return found


def measure_accuracy(session: Session, rows: Labelled, *, batch_size: int = 32) -> Accuracy:
    """Count the texts whose class is their label.

    Args:
        session: of a folder that classifies texts.
        rows: labelled texts.
        batch_size: texts in a run.

    Raises:
        InputError: the folder does something else, or there is a label that the model has not.
    """
    if not TASKS[session.task].names_classes or TASKS[session.task].labels != "class" or TASKS[session.task].per_token:
        raise InputError(f"accuracy is measured of text classification, {session.folder} does {session.task}")
    names = list(session.labels or ())
    wanted = [_class_of(label, names, session) for label in rows.labels]
    said = session.classify(rows.texts, batch_size, pairs=rows.pairs)
    right = sum(names[number] == answer.label for number, answer in zip(wanted, said, strict=True))
    return Accuracy(right, len(wanted))


def assert_latency(
    folder: Path | str,
    *,
    against: Path | str,
    at_most_ratio: float = DEFAULT_RATIO,
    batch: int = 1,
    length: int = 128,
    variant: str | None = None,
    against_variant: str | None = None,
    threads: int | None = None,
    min_seconds: float | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    record: Record | None = None,
) -> RatioVerdict:
    """Assert that a folder takes at most so many times as long as another one, timed in turns; see `compare_latency`.

    Args:
        folder: that `losparse export` wrote.
        against: another one: an earlier build, or the dense model.
        at_most_ratio: 1.1 for at most a tenth slower, 0.5 for twice as fast.
        batch: texts in a run.
        length: tokens in a text.
        variant: of the folder; by default the one that `Session` chooses here.
        against_variant: of the other one.
        threads: of both; see `Session`.
        min_seconds: timed seconds a model and measurement.
        providers: see `Session`.
        record: is told what was measured, also where the assertion fails.

    Raises:
        AssertionError: it is slower, in three measurements after one another.
    """
    __tracebackhide__ = True
    one = Session(folder, providers=providers, threads=threads, variant=variant)
    other = Session(against, providers=providers, threads=threads, variant=against_variant)
    verdict = compare_latency(
        one, other, batch=batch, length=length, at_most_ratio=at_most_ratio, min_seconds=min_seconds
    )
    _tell(record, "latency", verdict.words)
    if not verdict.passed:
        raise AssertionError(f"{folder} at {batch} x {length} {verdict.words} ({against})")
    return verdict


def _tell(record: Record | None, name: str, value: object) -> None:
    if record is not None:
        record(name, value)


def _numbers_of(report: CheckReport) -> Iterable[tuple[str, float]]:
    """Yield the largest difference of each kind of inputs, with the variant's name where it is not the first."""
    for kind, part in report.parts.items():
        yield f"parity on {kind}", part.parity.max_abs
    for name, other in report.others.items():
        for kind, part in other.parts.items():
            yield f"parity on {kind}, variant {name}", part.parity.max_abs


def _checker() -> Any:
    """Return what checks a folder against a checkpoint."""
    for found in entry_points(group=REFERENCES):
        return found.load()
    raise DependencyError(
        "a checkpoint as the reference needs losparse_export: pip install 'losparse[export]'; or record golden outputs "
        "with `losparse golden`, which need neither that nor torch"
    )


def _variants(folder: Path | str, variant: str | None) -> list[str]:
    """Return the variants to look at: one, or those that this CPU can run."""
    if variant is not None:
        return [variant]
    wrong = int8_overflows()
    return [name for name, each in read_folder(folder).variants.items() if not (each.wide and wrong)]


def _labelled(data: Iterable[tuple[str, str]]) -> Labelled:
    pairs = list(data)
    if not pairs:
        raise InputError("data must be a file of labelled texts, or at least one pair of a text and its label")
    return Labelled([text for text, _ in pairs], None, [str(label) for _, label in pairs])


def _class_of(label: str, names: Sequence[str], session: Session) -> int:
    """Return the class id of a label: its name in any case, or the id itself."""
    by_name: Mapping[str, int] = {name.casefold(): number for number, name in enumerate(names)}
    if label.casefold() in by_name:
        return by_name[label.casefold()]
    if label.isascii() and label.isdigit() and int(label) < len(names):
        return int(label)
    raise InputError(f"label {label!r} is none of {session.folder}: {', '.join(names)}")
