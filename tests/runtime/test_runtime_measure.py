"""Timing with a clock that the test turns, and memory in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from losparse_runtime import InputError, Latency, Options, RunError, Session, benchmark, measure, peak_memory
from losparse_runtime.contract.config import ModelConfig, parse_model_config
from losparse_runtime.contract.feeds import Draw
from losparse_runtime.contract.fields import Fields
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TEXT_INPUTS, TensorSpec, end_rows_
from losparse_runtime.timing import _memory

MakeFolder = Callable[..., Any]
TEXTS = Signature(tuple(TensorSpec(name, "int64", ("batch", "sequence")) for name in TEXT_INPUTS))
OPTIONS = Options(("CPUExecutionProvider",), threads=1)


class Clock:
    """Stands still but for what the sessions add."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Turns:
    """Sessions "a" and "b" that take the milliseconds the test gives them, and the order of their runs."""

    clock: Clock = field(default_factory=Clock)
    calls: list[str] = field(default_factory=list)
    costs: dict[str, Iterator[float]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)

    def measure(self, **options: Any) -> dict[str, Latency]:
        return measure(self.sessions, length=8, memory=False, clock=self.clock, **options)


@pytest.fixture
def turns(make_folder: MakeFolder) -> Turns:
    made = Turns()

    class Timed(Session):
        def run(self, inputs: Any) -> Any:
            name = self.folder.name
            made.calls.append(name)
            made.clock.now += next(made.costs[name]) / 1e3
            return super().run(inputs)

    made.sessions.update({name: Timed(make_folder(name=name).path, threads=1) for name in ("a", "b")})
    return made


def test_sessions_take_turns_and_each_starts_in_turn(turns: Turns) -> None:
    turns.costs.update(a=iter([1.0] * 99), b=iter([2.0] * 99))
    turns.measure(warmup=2, runs=3)
    assert "".join(turns.calls) == "ab" + "abba" + "abbaab"  # outputs checked, warm-up, timed


def test_numbers_worked_by_hand(turns: Turns) -> None:
    # One run each for the check; then the timed ones. The machine is twice as slow in the last three rounds.
    turns.costs.update(a=iter([9.0, 2, 2, 4, 4, 4]), b=iter([9.0, 1, 1, 2, 2, 1]))
    result = turns.measure(batch=2, warmup=0, runs=5)
    assert list(result) == ["a", "b"]
    b = result["b"]
    assert isinstance(b, Latency)
    assert b.median_ms == pytest.approx(1.0)
    assert b.min_ms == pytest.approx(1.0)
    assert b.p90_ms == pytest.approx(2.0)  # sorted 1 1 1 2 2: place 3.6
    assert b.p99_ms == pytest.approx(2.0)
    assert b.tokens_per_s == pytest.approx(16 / 1e-3)
    assert b.runs == 5
    assert b.speedup == pytest.approx(2.0)  # the rounds say 2 2 2 2 4; the medians alone would say 4
    assert (b.speedup_low, b.speedup_high) == pytest.approx((2.0, 4.0))  # of five rounds all that was seen
    a = result["a"]
    assert (a.speedup, a.speedup_low, a.speedup_high) == pytest.approx((1.0, 1.0, 1.0))
    assert (a.noisy, b.noisy) == (True, True)  # the median of a is twice its fastest, the interval of b is wide
    assert b.peak_memory_bytes is None
    assert json.loads(json.dumps(b.to_dict()))["runs"] == 5


def test_the_interval_of_a_speedup_leaves_out_rounds_that_were_disturbed(turns: Turns) -> None:
    """Of 20 rounds ranks 6 to 15 hold the median in 95 of 100 samples: (20 - 1.96 * sqrt(20)) / 2 = 5.6 left out."""
    turns.costs.update(a=iter([9.0] + [4.0] * 20), b=iter([9.0] + [1.0] * 3 + [2.0] * 15 + [8.0] * 2))
    b = turns.measure(warmup=0, runs=20)["b"]
    assert (b.speedup, b.speedup_low, b.speedup_high) == pytest.approx((2.0, 2.0, 2.0))
    turns.costs.update(a=iter([9.0] + [4.0] * 20), b=iter([9.0] + [1.9] * 10 + [2.1] * 10))
    b = turns.measure(warmup=0, runs=20)["b"]
    assert (b.speedup_low, b.speedup_high) == pytest.approx((4 / 2.1, 4 / 1.9)) and not b.noisy


def test_percentiles_interpolate(turns: Turns) -> None:
    turns.costs.update(a=iter([9.0, *range(1, 12)]), b=iter([9.0] * 12))
    result = turns.measure(warmup=0, runs=11)["a"]
    assert (result.median_ms, result.p90_ms, result.p99_ms) == pytest.approx((6.0, 10.0, 10.9))


def test_rounds_go_on_until_the_time_is_over(turns: Turns) -> None:
    turns.costs.update(a=iter([10.0] * 99), b=iter([30.0] * 99))
    # 0.4 s a session, 0.8 s for both, 40 ms a round.
    assert turns.measure(warmup=0, min_seconds=0.4)["a"].runs in (20, 21)


def test_at_least_ten_rounds(turns: Turns) -> None:
    turns.costs.update(a=iter([1000.0] * 99), b=iter([1000.0] * 99))
    assert turns.measure(warmup=0, min_seconds=0.1)["a"].runs == 10


def test_a_real_measurement(make_folder: MakeFolder) -> None:
    sessions = {name: Session(make_folder(name=name, types=name == "x").path, threads=1) for name in ("x", "y")}
    result = measure(sessions, batch=2, length=16, runs=4)
    for latency in result.values():
        assert 0 < latency.min_ms <= latency.median_ms <= latency.p90_ms <= latency.p99_ms
        assert latency.runs == 4
        assert latency.peak_memory_bytes is not None
        assert latency.peak_memory_bytes > 10 * 2**20  # no Python with numpy and onnxruntime is smaller


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, r"^batch must be a whole number >= 1, got 0$"),
        ({"length": 1.5}, r"^length must be a whole number >= 1, got 1.5$"),
        ({"length": 17}, r"^length must be in 1..16, the positions of 'x', got 17$"),
        ({"warmup": -1}, r"^warmup must be a whole number >= 0, got -1$"),
        ({"runs": 0}, r"^runs must be a whole number >= 1, got 0$"),
        ({"runs": True}, r"^runs must be a whole number >= 1, got True$"),
        ({"min_seconds": 0}, r"^min_seconds must be a finite number > 0, got 0$"),
        ({"min_seconds": float("nan")}, r"^min_seconds must be a finite number > 0, got nan$"),
        ({"runs": 2, "min_seconds": 3.0}, r"^runs=2 says how often, so min_seconds=3 would change nothing; give one$"),
    ],
)
def test_bad_arguments(make_folder: MakeFolder, arguments: dict[str, Any], message: str) -> None:
    sessions = {"x": Session(make_folder().path, threads=1)}
    with pytest.raises(InputError, match=message):
        measure(sessions, **{"length": 8, "memory": False, **arguments})


@pytest.mark.parametrize("time", [measure, lambda sessions: benchmark(sessions, [(1, 8)])], ids=["one", "several"])
@pytest.mark.parametrize("sessions", [{}, [1]])
def test_sessions_must_be_named(sessions: Any, time: Callable[[Any], object]) -> None:
    with pytest.raises(InputError, match=r"^sessions must be a dict of at least one session by name, as in"):
        time(sessions)


def test_a_model_that_gives_nan_is_not_timed(make_folder: MakeFolder) -> None:
    session = Session(make_folder(poison=True).path, threads=1)
    with pytest.raises(RunError, match=r"^output 'logits' of 'x' is not finite \(NaN or Inf\): its time would mean"):
        measure({"x": session}, batch=8, length=16, memory=False)


def random_inputs(config: ModelConfig, batch: int, length: int, seed: int = 0) -> dict[str, Any]:
    return TEXTS.within(config.vocabulary).random_feeds(Draw(batch, length, seed=seed))


@pytest.mark.parametrize("pad", [0, 2, 4, None, 9])
def test_random_ids_avoid_padding(pad: int | None) -> None:
    inputs = random_inputs(ModelConfig(vocab_size=5, pad_token_id=pad), 3, 100)
    assert {name: (array.shape, str(array.dtype)) for name, array in inputs.items()} == {
        name: ((3, 100), "int64") for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert set(inputs["input_ids"].ravel()) == set(range(5)) - {pad}
    assert inputs["attention_mask"].all()
    np.testing.assert_array_equal(
        inputs["input_ids"], random_inputs(ModelConfig(vocab_size=5, pad_token_id=pad), 3, 100)["input_ids"]
    )
    assert (inputs["input_ids"] != random_inputs(ModelConfig(5, pad_token_id=pad), 3, 100, seed=1)["input_ids"]).any()


def test_random_texts_of_an_encoder_decoder_end_once() -> None:
    """BART's head finds its place by the end token, and fails where rows have none or several."""
    config = ModelConfig(vocab_size=5, pad_token_id=1, end_token_id=2)
    ids = random_inputs(config, 3, 100)["input_ids"]
    assert ((ids == 2).sum(1) == 1).all() and (ids[:, -1] == 2).all() and set(ids.ravel()) == {0, 2, 3, 4}
    mask = np.array([[1, 1, 1, 0], [0, 0, 1, 1]])
    rows = np.array([[2, 3, 4, 1], [1, 1, 2, 4]])
    end_rows_(rows, mask, config.vocabulary)
    np.testing.assert_array_equal(rows, [[0, 3, 2, 1], [1, 1, 0, 2]])
    for other in (ModelConfig(vocab_size=2, pad_token_id=1, end_token_id=0), ModelConfig(5, end_token_id=7)):
        assert set(random_inputs(other, 1, 50)["input_ids"].ravel()) <= set(range(5))


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"is_encoder_decoder": True, "eos_token_id": 2}, 2),
        ({"is_encoder_decoder": True, "eos_token_id": [2, 3]}, None),
        ({"is_encoder_decoder": True}, None),
        ({"is_encoder_decoder": False, "eos_token_id": 2}, None),
        ({"eos_token_id": 2}, None),
    ],
)
def test_the_end_token_of_a_configuration(settings: dict[str, Any], end: int | None) -> None:
    assert parse_model_config(Fields(Path("config.json"), settings)).end_token_id == end


def test_random_ids_need_a_vocabulary() -> None:
    with pytest.raises(InputError, match=r"^config.json must have vocab_size to make random token ids; export"):
        random_inputs(ModelConfig(), 1, 1)
    with pytest.raises(
        InputError, match=r"^config.json must have a vocab_size above 1 to make random token ids, got 1$"
    ):
        random_inputs(ModelConfig(vocab_size=1, pad_token_id=0), 1, 1)


def test_memory_is_not_the_parent_s(make_folder: MakeFolder) -> None:
    folder = make_folder().path
    ballast = np.ones(2**26)  # 512 MiB that the parent holds, and the child must not be charged with
    peak = peak_memory(folder, OPTIONS, length=8)
    assert 10 * 2**20 < peak < ballast.nbytes


def test_memory_of_a_folder_that_does_not_open(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"measuring memory in a process of its own failed: .*nowhere: no such folder"):
        peak_memory(tmp_path / "nowhere", OPTIONS)
    with pytest.raises(RunError, match=r"failed: input_ids has 99 tokens a row, the model has 16 positions"):
        peak_memory(make_folder().path, OPTIONS, length=99)


def test_memory_where_the_process_cannot_start(make_folder: MakeFolder) -> None:
    with pytest.raises(RunError, match=r"made: measuring memory in a process of its own failed: .*No such file"):
        peak_memory(make_folder().path, OPTIONS, python="/no/such/python")


def test_the_peak_is_read_from_the_kernel_s_account(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t     2048 kB\n")
    assert _memory.peak_resident_bytes(tmp_path / "status") == 2048 * 1024
    assert _memory.peak_resident_bytes(tmp_path / "not there") > 2**20


def test_the_child_s_report(make_folder: MakeFolder) -> None:
    options = {"providers": ["CPUExecutionProvider"], "threads": 1, "allow_fallback": False, "spinning": True}
    job = {"folder": str(make_folder().path), "options": options, "batch": 1, "length": 8, "seed": 0, "runs": 2}
    assert _memory.report(job)["peak_memory_bytes"] > 10 * 2**20
    assert "threads must be" in _memory.report(job | {"options": options | {"threads": 0}})["error"]
