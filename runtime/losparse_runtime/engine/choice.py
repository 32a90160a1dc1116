"""Which variant of a folder to open where nobody says: the fastest one that is right on this CPU and this provider.

1. Never one whose int8 products would overflow here, nor one that was not compared with PyTorch, nor one that was
   made for another provider where there is one for ours.
2. On the CPU provider, the fastest by the times that were recorded on this class of CPU (`losparse bench --record`),
   where two variants or more were timed by the same calls.
3. Otherwise the first of `ORDERS` that there is.

Where no text may change what is said of another, a variant in which it would runs one text at a time (`alone`). Its
time is then that of so many calls of one text, and it stands in front of fp32 at best: on one thread int8 one by one
takes 0.7 to 1.1 times as long as fp32 in batches of 16 texts of 12 tokens, and 0.3 to 0.5 times at 128 tokens, where
batches gain nothing; int8-rows in batches takes 0.6 and 1.5 times as long as that.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..contract.folder import Folder
from ..contract.variant import DEFAULT_PROVIDER, WIDE_INT8
from .alone import variant_mixes
from .cpus import ARM, CPU_AMX, CPU_AVX2, CPU_AVX512_VNNI, UNKNOWN, int8_overflows

GPU_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")

_ON_GPU = ("fp16", "fp32", "int8-weights", "int4-weights", "int8", "int8-static", "int8-rows", WIDE_INT8)
_NARROW = ("int8", "int8-static", "int8-rows", "fp32", "int8-weights", "int4-weights", "fp16")
_WIDE = (WIDE_INT8, *_NARROW)
ORDERS: Mapping[str, tuple[str, ...]] = {
    CPU_AMX: _WIDE,
    CPU_AVX512_VNNI: _WIDE,
    ARM: _WIDE,
    CPU_AVX2: _NARROW,
    # It may be an x86-64 without VNNI, of which the system does not tell.
    UNKNOWN: (*_NARROW, WIDE_INT8),
    **dict.fromkeys(GPU_PROVIDERS, _ON_GPU),
}
"""Names of variants, best first, by class of CPU on the CPU provider and by name of any other provider. Weights of 8
bits are as fast as those of 7 and more exact; weights alone in int8 or int4 gain nothing on an encoder, and fp16 is
widened again on CPUs. For providers that are not here fp32 comes first: nobody measured them."""
_ELSEWHERE = ("fp32", "fp16")
_CALL = re.compile(r"(?P<cpu>\S+) (?P<batch>\d+)x(?P<length>\d+) (?P<threads>\d+t)")
_ALONE = "one text at a time"


@dataclass(frozen=True)
class Choice:
    """A variant, and why it is that one.

    Attributes:
        name: of the variant.
        reason: why it, and why not the others; one line.
    """

    name: str
    reason: str


def choose_variant(folder: Folder, cpu: str, providers: Sequence[str], *, invariant: bool = False) -> Choice:
    """Choose the variant to open; the module says how.

    Args:
        folder: the contents of its `losparse.json`.
        cpu: class of the CPU, of `CPU_CLASSES`.
        providers: names of onnxruntime's execution providers, most wanted first; at least one.
        invariant: no text may change what is said of another of its batch.

    Returns:
        A choice always: where every variant is wrong here the first one, whose opening then says why not.
    """
    names = list(folder.variants)
    alone = {name for name in names if invariant and variant_mixes(folder.variants[name])}
    if len(names) == 1:
        return Choice(names[0], f"variant {names[0]}, the only one{f', {_ALONE}' if alone else ''}")
    provider = providers[0]
    where = cpu if provider == DEFAULT_PROVIDER else provider
    unfit = _unfit(folder, cpu, provider)
    left = [name for name in names if name not in unfit]
    if not left:
        return Choice(names[0], f"variant {names[0]} on {where}, the first, though none fits{_listed(unfit.items())}")
    timed = _times(folder, left, cpu, alone) if provider == DEFAULT_PROVIDER else {}
    if timed:
        name, why = min(timed, key=lambda each: timed[each]), "the fastest as timed on this class of CPU"
        others = {each: f"{ms / timed[name]:.2f} times as long" for each, ms in timed.items() if each != name}
        others |= {each: "not timed by the same calls" for each in left if each not in timed}
    else:
        order = ORDERS.get(where, _ELSEWHERE)
        name, *later = sorted(left, key=lambda each: _place(folder, each, order, alone=each in alone))
        why, others = "the first in the order for it", dict.fromkeys(later, "later in that order")
    others = {each: f"{reason}, {_ALONE}" if each in alone else reason for each, reason in others.items()}
    why = f"{why}, {_ALONE}" if name in alone else why
    return Choice(name, f"variant {name} on {where}, {why}{_listed((others | unfit).items())}")


def overflowing(folder: Folder, overflows: bool | None = None) -> dict[str, str]:
    """Return why some variants do not run on this CPU, by name, whatever `CPU_VARIABLE` names.

    Args:
        folder: the contents of its `losparse.json`.
        overflows: whether int8 products with weights of 8 bits overflow; default: whether they do on this CPU.
    """
    wide = {name: variant.weight_bits for name, variant in folder.variants.items() if variant.wide}
    if not wide or not (int8_overflows() if overflows is None else overflows):
        return {}
    return {
        name: f"its weights have {bits} bits, with which int8 products overflow on this CPU"
        for name, bits in wide.items()
    }


def _unfit(folder: Folder, cpu: str, provider: str) -> dict[str, str]:
    """Return why some variants are not to be opened here, by name."""
    found: dict[str, str] = {}
    for name, variant in folder.variants.items():
        if variant.parity is None:
            found[name] = "not compared with PyTorch"
        elif variant.wide and cpu == CPU_AVX2:
            found[name] = "overflows without VNNI"
    left = {name: variant for name, variant in folder.variants.items() if name not in found}
    if any(variant.provider == provider for variant in left.values()):
        found |= {
            name: f"made for {variant.provider}" for name, variant in left.items() if variant.provider != provider
        }
    return found


def _times(folder: Folder, names: Sequence[str], cpu: str, alone: Collection[str]) -> dict[str, float]:
    """Return the geometric mean of every variant's times over the calls that all were timed by on this class of CPU.

    Args:
        folder: see `choose_variant`.
        names: of variants.
        cpu: see there.
        alone: names of the variants that run one text at a time.

    Returns:
        Milliseconds by name, of the variants that were timed; empty where fewer than two share a call.
    """
    recorded = {name: _recorded(folder.variants[name].times or {}, cpu) for name in names}
    recorded |= {name: _one_by_one(times) for name, times in recorded.items() if name in alone}
    timed = {name: times for name, times in recorded.items() if times}
    shared = set.intersection(*map(set, timed.values())) if timed else set()
    if len(timed) < 2 or not shared:
        return {}
    return {name: statistics.geometric_mean([times[call] for call in shared]) for name, times in timed.items()}


def _recorded(times: Mapping[str, float], cpu: str) -> dict[str, float]:
    return {call: ms for call, ms in times.items() if call.startswith(f"{cpu} ") and ms > 0}


def _one_by_one(times: Mapping[str, float]) -> dict[str, float]:
    """Return what the same calls take one text at a time, of those of whose length one text was timed.

    Args:
        times: milliseconds by call, as "cpu-amx 8x128 1t".
    """
    found = {}
    for call in times:
        parts = _CALL.fullmatch(call)
        single = None if parts is None else times.get(f"{parts['cpu']} 1x{parts['length']} {parts['threads']}")
        if parts is not None and single is not None:
            found[call] = int(parts["batch"]) * single
    return found


def _place(folder: Folder, name: str, order: Sequence[str], *, alone: bool) -> tuple[float, int]:
    """Return where a variant stands in an order: by its own name, else by what its precision is called.

    Args:
        folder: see `choose_variant`.
        name: of the variant.
        order: names, the best first.
        alone: whether it runs one text at a time, and so stands in front of fp32 at best.
    """
    known = name if name in order else folder.variants[name].own_name
    place = order.index(known) if known in order else len(order)
    return max(place, order.index("fp32") - 0.5) if alone else place, place


def _listed(others: Iterable[tuple[str, str]]) -> str:
    listed = ", ".join(f"{name} ({why})" for name, why in others)
    return f"; not {listed}" if listed else ""
