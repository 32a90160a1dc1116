"""What a machine takes for things, read off the times of small graphs; the machines here are made up."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from losparse.errors import LosparseError
from losparse_export import CPU, Call, Costs
from losparse_export.machines import AMX, AVX2, AVX512_VNNI
from losparse_export.planning.calibrate import fit, measured_target, time_probes
from losparse_export.planning.probes import MULTIPLY_ADD, RUN, Probe, probes
from losparse_export.target import target_by_name, this_machine
from losparse_runtime.contract.progress import Phases

UNIT = 1e-11  # seconds of a multiply-add


@pytest.fixture(scope="module")
def built() -> list[Probe]:
    return probes()


def times_on(costs: Costs, built: list[Probe]) -> list[float]:
    """Seconds of every probe where each thing takes what it costs, and calling a session as long as ten nodes."""
    unit = {field.name: getattr(costs, field.name) for field in fields(Costs)} | {MULTIPLY_ADD: 1.0}
    unit[RUN] = 10 * costs.node
    rows = [probe.row(costs.panel, costs.step) for probe in built]
    return [UNIT * sum(unit[name] * count for name, count in row.items()) for row in rows]


@pytest.mark.parametrize("costs", [AMX, AVX512_VNNI], ids=["amx", "vnni"])
def test_the_constants_of_a_machine_are_found_from_its_times(built, costs):
    found = fit(built, times_on(costs, built))
    # Least squares of times without noise: what is left is rounding of doubles, far below a thousandth.
    assert asdict(found) == pytest.approx(asdict(costs), rel=1e-3)


def test_noise_moves_constants_by_little(built):
    """Every second call is 10 % slow: what a product takes is still found to within a third."""
    times = [seconds * (1.1 if place % 2 else 1.0) for place, seconds in enumerate(times_on(AMX, built))]
    found = fit(built, times)
    for product in ((768, 160), (768, 768), (384, 1536)):
        for precision in ("fp32", "int8"):
            expected = AMX.product(product, precision, 128)
            assert found.product(product, precision, 128) == pytest.approx(expected, rel=0.33)


def test_times_that_no_multiplication_explains_are_refused(built):
    with pytest.raises(LosparseError, match=r"this machine could not be measured, .*; try again, or name a target"):
        fit(built, [1.0] * len(built))  # all as long as each other: calling a session is all there is


def test_probes_run_and_are_timed(built):
    """The thinnest ones alone, on onnxruntime itself."""
    some = [probe for probe in built if probe.width <= 64]
    assert {probe.precision for probe in some} == {"fp32", "int8"}
    assert all(0 < seconds < 1 for seconds in time_probes(some, 1, Phases(), seconds=0.0))


class Machine:
    """Is like AMX, and counts how often it is measured."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, threads, phases):
        self.asked += 1
        return AMX


def test_a_machine_is_measured_once(tmp_path):
    machine, cache = Machine(), tmp_path / "deep" / "costs.json"
    first = measured_target(cache=cache, measure=machine)
    # Its plans are those of this machine.
    assert first == replace(CPU, costs=AMX)
    assert measured_target(cache=cache, measure=machine) == first and machine.asked == 1
    measured_target(2, cache=cache, measure=machine)
    assert machine.asked == 2 and len(json.loads(cache.read_text())) == 2
    assert [file.name for file in cache.parent.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: "{",
        lambda entry: json.dumps([entry]),
        lambda entry: json.dumps(dict.fromkeys(entry, 3)),
        lambda entry: json.dumps({key: {**values, "int8": -1.0} for key, values in entry.items()}),
        lambda entry: json.dumps({key: {**values, "int8": "0.2"} for key, values in entry.items()}),
        lambda entry: json.dumps({key: {**values, "step": 0} for key, values in entry.items()}),
        lambda entry: json.dumps({key: {**values, "more": 1.0} for key, values in entry.items()}),
    ],
    ids=["cut", "list", "number", "negative", "text", "no step", "unknown"],
)
def test_a_damaged_cache_is_measured_again(tmp_path, damage):
    machine, cache = Machine(), tmp_path / "costs.json"
    first = measured_target(cache=cache, measure=machine)
    cache.write_text(damage(json.loads(cache.read_text())))
    assert measured_target(cache=cache, measure=machine) == first and machine.asked == 2
    assert measured_target(cache=cache, measure=machine) == first and machine.asked == 2


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path):
    (tmp_path / "file").write_text("")
    assert measured_target(cache=tmp_path / "file" / "costs.json", measure=Machine()).costs == AMX


def test_another_kind_may_be_chosen_for_the_machine_at_hand():
    assert this_machine("cpu-amx").costs == AMX and this_machine("").costs == this_machine(None).costs == AVX2
    with pytest.raises(LosparseError, match=r"^\$LOSPARSE_CPU must be one of cpu-avx2, .*, or not set, got 'amx'$"):
        this_machine("amx")


def test_names_of_targets_are_told_with_what_measures_them():
    refused = r"^target \(--target\) must be one of cpu, cpu-avx2, cpu-avx512-vnni, cpu-amx, measured, got 'gpu'$"
    with pytest.raises(LosparseError, match=refused):
        target_by_name("gpu")


def test_what_a_product_takes_where_width_is_the_price():
    costs = replace(
        AVX2, int8=0.1, quantise=20.0, scale=50.0, read=2.0, write=3.0, byte=4.0, start=800.0, panel=32, step=16
    )
    # 40 outputs are computed as 48, and 8 as 32.
    assert (costs.width(40), costs.width(8)) == (48, 32)
    # fp32: 100 * 48 + 2 * 100 + 3 * 40, and over 10 tokens 4 bytes of 4 for each of 4,000 weights, and the start.
    assert costs.product((100, 40), tokens=10) == pytest.approx(4800 + 200 + 120 + (64_000 + 800) / 10)
    # int8: 480 + 20 * 100 + 50 * 40, and a byte a weight.
    assert costs.product((100, 40), "int8", 10) == pytest.approx(480 + 2000 + 2000 + (16_000 + 800) / 10)
    # Of one long text and many short ones it gains where most tokens are: 5,120 against 4,480 without the weights.
    assert costs.gains((100, 40)) and costs.gains((100, 40), [(Call(1, 1), 1.0), (Call(1, 128), 1.0)])
    # A thin one is as long to quantise as it is to multiply: 3,200 + 200 + 24 against 320 + 2,000 + 400.
    assert costs.gains((100, 8)) and not replace(costs, quantise=40.0).gains((100, 8), Call(1, 10**6))
