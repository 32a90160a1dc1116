"""A folder compared with golden outputs: its files, tokens, numbers and operators, in every variant."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..contract.progress import unheard
from ..contract.task import TASKS
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.cpus import cpu_class, int8_overflows
from ..engine.options import Provider
from ..session import Session
from ..text.cuts import cuts_told_once
from ..timing.profile import profile_nodes
from .bounds import allowed_difference
from .differences import first_difference, shown
from .folder import changed_description, open_checked
from .golden import Golden, read_golden, require_task
from .numbers import Reference, measure_difference
from .preprocessing import Preprocessing, preprocessing_of
from .report import CheckedPart, CheckReport, Judgement
from .tokens import setting_differences, tokenizer_parts

ENGINE, CPU = "onnxruntime", "cpu"
"""Names among the versions of a golden file: operators are compared where both are the same."""
_PROFILED = (1, 8)
"""Texts and tokens at which operators are counted; how many there are does not hang on it."""


def check_golden(
    folder: Path | str,
    golden: Golden | Path | str,
    *,
    variant: str | None = None,
    providers: Sequence[Provider] = (DEFAULT_PROVIDER,),
    threads: int | None = None,
) -> CheckReport:
    """Check a folder against golden outputs; no torch is loaded.

    Args:
        folder: that `losparse export` wrote.
        golden: what `losparse golden` recorded, or its file.
        variant: the only one to look at; by default every one that this CPU can run.
        providers: see `Session`.
        threads: see `Session`.

    Raises:
        InputError: the golden file cannot be read, or there is no such variant.
        LosparseRuntimeError: the folder cannot be opened although no file of it changed, or a model failed.
    """
    golden = golden if isinstance(golden, Golden) else read_golden(golden)
    session, changes = open_checked(folder, providers, threads, variant)
    if session is None:
        return CheckReport(tuple(changes))
    require_task(golden, session.task, session.folder)
    first = _compare(session, golden)
    others, skipped = {}, {}
    for name, each in session.metadata.folder.variants.items() if variant is None else ():
        if name == session.metadata.variant_name:
            continue
        if each.wide and int8_overflows():
            skipped[name] = f"its weights have {each.weight_bits} bits, with which int8 products overflow on this CPU"
            continue
        other = Session(session.folder, providers=providers, threads=threads, variant=name)
        report = _compare(other, golden)
        lines = (*changed_description(other), *_operators(other, golden))
        others[name] = replace(report, differences=lines)
    lines = (*changes, *_token_differences(session, golden), *_operators(session, golden))
    return replace(first, differences=lines, others=others, skipped=skipped)


def _compare(session: Session, golden: Golden) -> CheckReport:
    """Compare numbers, and judge them by the bounds of the golden file."""
    own = golden.bounds_of(session.metadata.arithmetic)
    theirs = golden.bounds_of(golden.precision)
    judge = min((own, theirs), key=lambda bounds: 1.0 if bounds.cosine is None else bounds.cosine)
    classifies = TASKS[session.task].names_classes
    parts, allowed, largest = {}, 0.0, 0.0
    for kind in dict.fromkeys(case.kind for case in golden.cases):
        cases = [case for case in golden.cases if case.kind == kind]
        outputs = {id(case.inputs): case.outputs for case in cases}
        reference = Reference(golden.kind, lambda batch, known=outputs: known[id(batch)], _nothing(session))  # type: ignore[misc]
        with cuts_told_once():
            found = measure_difference(session, reference, [case.inputs for case in cases], unheard)
        largest = max(largest, found.scale)
        allowed = allowed_difference(judge.difference, largest)
        passed = judge.failure(found.parity, allowed, classifies=classifies) is None
        texts = sum(len(next(iter(case.inputs.values()))) for case in cases)
        parts[kind] = CheckedPart(passed, len(cases), texts, found.parity, None)
    name = session.metadata.variant_name if len(session.metadata.folder.variants) > 1 else None
    judgement = Judgement(f"golden outputs of {golden.kind}", session.task, judge.name, allowed, judge.cosine, name)
    return CheckReport((), parts, judgement)


def _nothing(session: Session) -> Preprocessing:
    return Preprocessing({}, {}, None, lambda texts, pairs: [])


def _token_differences(session: Session, golden: Golden) -> list[str]:
    """Compare how a folder reads texts with how the reference did."""
    actual = preprocessing_of(session)
    found = setting_differences(actual.settings, golden.settings)
    if golden.tokenizer is None or actual.tokenizer is None:
        if (golden.tokenizer is None) != (actual.tokenizer is None):
            found.append("tokenizer.json: one of folder and reference has none")
        return found
    found += setting_differences(actual.text_settings, golden.text_settings)
    part = first_difference(tokenizer_parts(actual.tokenizer), dict(golden.tokenizer), "")
    if part is not None:
        found.append(f"tokenizer.json: {part}")
    typed = session.signature.has("types")
    rows = actual.encode([text for text, _, _ in golden.rows], None) if golden.rows else []
    wrong = [
        (text, ours[0], ids)
        for ours, (text, ids, types) in zip(rows, golden.rows, strict=True)
        if ours[0] != ids or (typed and ours[1] != types)
    ]
    if wrong:
        text, ours_ids, ids = wrong[0]
        count = f"{len(wrong)} of {len(golden.rows)} texts differ, the first is {shown(text)}"
        found.append(f"tokens: {count}: {len(ours_ids)} tokens, in the reference {len(ids)}, or others")
    return found


def count_operators(session: Session) -> dict[str, int]:
    """Return how many nodes of each kind run, once onnxruntime has fused what it fuses."""
    options = replace(session.options, variant=session.metadata.variant_name)
    batch, length = _PROFILED
    nodes = profile_nodes(session.folder, options, batch=batch, length=min(length, session.max_length), runs=1)
    return dict(sorted(Counter(node.operator for node in nodes).items()))


def recording_versions() -> dict[str, str]:
    """Return what the operators of an optimised graph hang on: the engine's version, and the class of the CPU."""
    return {ENGINE: importlib.metadata.version(ENGINE), CPU: cpu_class()}


def _operators(session: Session, golden: Golden) -> list[str]:
    """Say which fusions were lost: more nodes than were recorded, and fewer of some kind."""
    recorded = golden.operators.get(session.metadata.variant_name)
    here = recording_versions()
    if recorded is None or any(golden.versions.get(name) != version for name, version in here.items()):
        return []
    now = count_operators(session)
    before, after = sum(recorded.values()), sum(now.values())
    fewer = {name: (count, now.get(name, 0)) for name, count in recorded.items() if now.get(name, 0) < count}
    if after <= before or not fewer:
        return []
    return [f"operators: {after} nodes run, {before} were recorded, and a fusion is lost: {_listed(fewer)}"]


def _listed(fewer: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {before} -> {after}" for name, (before, after) in fewer.items())
