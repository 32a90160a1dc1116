"""The tables of encoders of random weights: every kind of machine, against the best that costs a user nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from _results import KINDS
from _table import load, table

from losparse import LoSparse

FREE = {  # what a user has without compressing anything, as it is called in a table
    "dense-int8-default": "onnxruntime int8",
    "dense-fp32-tuned": "our dense fp32",
    "dense-int8-tuned": "our dense int8",
    "openvino-f32": "OpenVINO f32",
    "openvino-bf16": "OpenVINO bf16",
    "openvino-int8": "OpenVINO int8",
}
BASE = "dense-fp32-default"
SHOWN = "12x768"  # in what says things in short
Call = tuple[int, int]
Speeds = dict[Call, dict[str, dict[str, Any]]]


def runs(kinds: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kinds of machines and what was measured there, shape by shape: those with the best instructions first."""
    order = [*KINDS, *sorted(kinds.keys() - KINDS.keys())]
    yield from ((kind, dict(kinds[kind])) for kind in order if kind in kinds)


def speeds(run: Mapping[str, Any]) -> Speeds:
    """Return the rows of one run by call and variant."""
    found: Speeds = {}
    for row in run["rows"]:
        found.setdefault((row["batch"], row["length"]), {})[row["variant"]] = row
    return found


def best_free(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the variant that is fastest of those that cost a user nothing, dense fp32 as torch writes it too."""
    return max((BASE, *filter(variants.__contains__, FREE)), key=lambda name: float(variants[name]["speedup"]))


def ours_of(variants: Iterable[str], default: str = LoSparse().structure) -> str:
    """Return the structure that stands for losparse in a run: the default one where that was measured."""
    measured = [name.removesuffix("-int8") for name in variants if name.endswith("-int8")]
    return default if default in measured else "foldable"


def circumstances(run: Mapping[str, Any]) -> str:
    """Say where a run was measured: the machine with its instructions, threads and versions."""
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    names = [name for name in ("onnxruntime", "openvino", "nncf") if name in run["versions"]]
    told = ", ".join(f"{name} {run['versions'][name]}" for name in names)
    return f"{run['machine']}, {threads}, {told}"


def has_openvino(run: Mapping[str, Any]) -> bool:
    """Whether OpenVINO was among the opponents."""
    return any(row["variant"].startswith("openvino") for row in run["rows"])


def _without_openvino(measured: Iterable[Mapping[str, Any]]) -> str:
    """Say on which machines OpenVINO was not among the opponents."""
    names = dict.fromkeys(run["machine"] for run in measured if not has_openvino(run))
    return f" OpenVINO was not measured on {' and '.join(names)}." if names else ""


def speed_short() -> str:
    """One table for the README: a BERT-base encoder against the best free alternative."""
    found = [shapes[SHOWN] for _, shapes in runs(load("encoder_latency.json").get("kinds", {})) if SHOWN in shapes]
    rows, structures = [], {}
    for run in found:
        for (batch, length), variants in speeds(run).items():
            ours = ours_of(variants)
            structures[run["machine"]] = ours
            best = best_free(variants)
            factors = [variants[f"{ours}-{precision}"]["speedup"] for precision in ("fp32", "int8")]
            over_best = [factor / variants[best]["speedup"] for factor in factors]
            rows.append(
                [
                    run["machine"],
                    f"{batch} x {length}",
                    f"{FREE.get(best, 'dense fp32')}, {variants[best]['speedup']:.1f}x",
                    *(f"{factor:.1f}x" for factor in factors),
                    *(f"**{factor:.1f}x**" for factor in over_best),
                ]
            )
    if not rows:
        return ""
    places: dict[str, list[str]] = {}
    for place, structure in structures.items():
        places.setdefault(structure, []).append(place)
    named = ", ".join(f"`{structure}` on {' and '.join(names)}" for structure, names in places.items())
    tested = dict.fromkeys(circumstances(run).removeprefix(f"{run['machine']}, ") for run in found)
    head = ["machine", "batch x tokens", "best free alternative", "losparse fp32", "losparse int8"]
    return (
        "An encoder of 12 x 768 at keep 0.2, speed-up over dense fp32 as torch exports it, and over the best that a "
        "user has without compressing: onnxruntime's int8, our export of the dense model, OpenVINO in f32, bf16 and "
        f"int8. Structure {named}; every machine in turns in one run ({'; '.join(tested)})."
        f"{_without_openvino(found)}\n\n"
        + table([*head, "losparse fp32 over the best free", "losparse int8 over the best free"], rows)
    )


def worth() -> str:
    """What compression brings over the best free alternative on every kind of machine, at its worst and at its best."""
    lines, kinds = [], list(runs(load("encoder_latency.json").get("kinds", {})))
    for _, shapes in kinds:
        for precision in ("int8", "fp32"):
            factors: list[tuple[float, str]] = []
            for shape, run in shapes.items():
                for (batch, length), variants in speeds(run).items():
                    own = variants[f"{ours_of(variants)}-{precision}"]["speedup"]
                    best = best_free(variants)
                    where = f"{shape.replace('x', ' x ')} at {batch} x {length} against {FREE.get(best, 'dense fp32')}"
                    factors.append((own / variants[best]["speedup"], where))
            (low, least), (high, most) = min(factors), max(factors)
            machine = next(iter(shapes.values()))["machine"]
            lines.append([machine, precision, f"{low:.1f}x: {least}", f"{high:.1f}x: {most}"])
    head = ["machine", "losparse in", "at its worst", "at its best"]
    note = _without_openvino(run for _, shapes in kinds for run in shapes.values()).strip()
    return f"{table(head, lines)}\n\n{note}".strip() if lines else ""


def encoders() -> str:
    """Speed of encoders of random weights on every kind of machine."""
    kinds = list(runs(load("encoder_latency.json").get("kinds", {})))
    if not kinds:
        return ""
    parts = ["\n".join(in_short(shapes[SHOWN]) for _, shapes in kinds if SHOWN in shapes)]
    parts.append(
        "Encoders of random weights at keep 0.2, median and speed-up over dense-fp32-default, timed in turns in one "
        "run. `default` is what torch.onnx.export writes, and its quantize_dynamic form, as onnxruntime runs them; "
        "`openvino` the same in OpenVINO, int8 by NNCF; `tuned` our export of the dense model. Of ours the third "
        "number is the speed-up over the best of all these."
    )
    for _, shapes in kinds:
        alike: dict[str, dict[str, Any]] = {}
        for shape, run in shapes.items():
            alike.setdefault(circumstances(run), {})[shape] = run
        for where, own in alike.items():
            note = "" if all(map(has_openvino, own.values())) else " OpenVINO was not measured there."
            parts += [f"**{where}.**{note}", encoder_table(own, ours=False), encoder_table(own, ours=True)]
    profiled = [shapes[SHOWN] for _, shapes in kinds if SHOWN in shapes and shapes[SHOWN]["profiles"]]
    if profiled:
        where = f"Where the time goes, 12x768 at 1 x 128, in ms by operator, {profiled[0]['machine']}:"
        parts += [where, profile_table(profiled[0]["profiles"])]
    return "\n\n".join(filter(None, parts))


def in_short(run: Mapping[str, Any]) -> str:
    """One line on a BERT-base encoder."""
    variants = speeds(run)[1, 128]
    ours, best = ours_of(variants), best_free(variants)
    fp32, int8 = (variants[f"{ours}-{precision}"]["speedup"] for precision in ("fp32", "int8"))
    free = variants[best]["speedup"]
    return (
        f"* {run['machine']}: 12 x 768 at 1 x 128 runs {fp32:.1f}x as fast as dense fp32, {int8:.1f}x in int8; as fast "
        f"as the best free alternative, {FREE.get(best, 'dense fp32')}, {fp32 / free:.1f}x and {int8 / free:.1f}x"
    )


def encoder_table(shapes: Mapping[str, Mapping[str, Any]], *, ours: bool) -> str:
    """Shapes and calls down, variants across: either what is free or what is ours."""
    found = {(shape, *call): variants for shape, run in shapes.items() for call, variants in speeds(run).items()}
    calls = sorted(found, key=lambda call: (int(call[0].partition("x")[0]), *call[1:]))
    free = {BASE, *FREE}
    names = [name for name in dict.fromkeys(n for v in found.values() for n in v) if (name not in free) == ours]
    rows = []
    for shape, batch, length in calls:
        variants = found[shape, batch, length]
        best = variants[best_free(variants)]["speedup"]
        cells = [_cell(variants[name], best if ours else None) if name in variants else "" for name in names]
        rows.append([f"{shape}, {batch} x {length}", *cells])
    return table(["layers x hidden, batch x tokens", *names], rows)


def _cell(row: Mapping[str, Any], best: float | None) -> str:
    over = "" if best is None else f", {row['speedup'] / best:.2f}x"
    return f"{row['median_ms']:.1f} ms, {row['speedup']:.2f}x{over}"


def profile_table(profiles: Mapping[str, Mapping[str, float]]) -> str:
    """Time by operator of a few variants; what takes little is added up."""
    ours = ours_of(profiles)
    wanted = (BASE, "dense-fp32-tuned", "dense-int8-tuned", f"{ours}-fp32", f"{ours}-int8")
    names = [name for name in wanted if name in profiles]
    total = {op: max(profiles[name].get(op, 0.0) for name in names) for name in names for op in profiles[name]}
    shown = sorted((op for op, ms in total.items() if ms >= 0.5), key=lambda op: -total[op])
    rows = [[op, *(f"{profiles[name].get(op, 0.0):.1f}" for name in names)] for op in shown]
    rest = [sum(ms for op, ms in profiles[name].items() if op not in shown) for name in names]
    return table(["operator", *names], [*rows, ["everything else", *(f"{ms:.1f}" for ms in rest)]])
