"""How a model is run: what is kept between runs, runs bound to a device, and those that warm it up."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from losparse_runtime import InputError, Session
from losparse_runtime.engine.options import MEMORY, Options
from losparse_runtime.engine.running import Bound, run_plainly, running
from losparse_runtime.engine.settings import session_settings

MakeFolder = Callable[..., Any]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FEED = {"input_ids": np.array([[4, 5, 6]]), "attention_mask": np.ones((1, 3), np.int64)}


def options(*providers: str, **rest: Any) -> Options:
    return Options(providers or (CPU,), threads=1, **rest)


@pytest.mark.parametrize(("memory", "plans"), [("fast", True), ("flat", False)])
def test_memory_is_a_setting_of_onnxruntime(memory: str, plans: bool) -> None:
    assert session_settings(onnxruntime, options(memory=memory)).enable_mem_pattern == plans


@pytest.mark.parametrize("memory", MEMORY)
def test_memory_changes_no_answer(make_folder: MakeFolder, memory: str) -> None:
    folder = make_folder().path
    expected = Session(folder, threads=1).run(FEED)["logits"]
    with Session(folder, threads=1, memory=memory) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run(FEED)["logits"], expected)


def test_memory_of_another_name_is_refused(make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"^memory must be one of fast, flat, got 'tiny'$"):
        Session(make_folder().path, memory="tiny")


class Recorder:
    """Stands in for onnxruntime on a GPU: it does on the CPU what it is told, and keeps what that was."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.OrtValue = self  # onnxruntime's name

    def ortvalue_from_numpy(self, array: Any, device: str, number: int) -> Any:
        self.said.append(("copy in", array.shape, device, number))
        return array

    def io_binding(self) -> Any:
        self.said.append("binding")
        self.bound: dict[str, Any] = {}
        return SimpleNamespace(
            bind_ortvalue_input=self.bound.__setitem__,
            bind_output=lambda *where: self.said.append(("output", *where)),
            copy_outputs_to_cpu=lambda: self.said.append("copy out") or [self.bound["input_ids"] + 1],
        )

    def run_with_iobinding(self, binding: Any) -> None:
        self.said.append("run")


def test_a_gpu_gets_its_inputs_before_the_run_and_gives_its_outputs_after_it() -> None:
    ort = Recorder()
    how = running([CUDA, CPU], options(CUDA, settings={CUDA: {"device_id": "1"}}), ort)
    (got,) = how(ort, ["logits"], FEED)
    np.testing.assert_array_equal(got, FEED["input_ids"] + 1)
    assert ort.said == [
        "binding",
        ("copy in", (1, 3), "cuda", 1),
        ("copy in", (1, 3), "cuda", 1),
        ("output", "logits", "cuda", 1),
        "run",
        "copy out",
    ]


def test_the_cpu_is_run_plainly() -> None:
    assert running([CPU], options()) is run_plainly
    assert running(["OpenVINOExecutionProvider", CPU], options()) is run_plainly


def test_bound_runs_give_the_numbers_of_plain_ones(make_folder: MakeFolder) -> None:
    """With the real onnxruntime, whose bindings take the CPU for a device too."""
    session = Session(make_folder().path, threads=1)
    expected = session.run(FEED)
    session._running = Bound(onnxruntime, "cpu")
    wide = {name: np.concatenate([value, value], axis=1)[:, :3] for name, value in FEED.items()}  # rows with gaps
    for feed in (FEED, wide, FEED):
        got = session.run(feed)
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value)


def test_warming_up_runs_the_shapes_that_are_given(make_folder: MakeFolder) -> None:
    shapes: list[tuple[int, ...]] = []

    class Watched(Session):
        def run(self, inputs: Any) -> Any:
            shapes.append(inputs["input_ids"].shape)
            return super().run(inputs)

    Watched(make_folder().path, threads=1, warmup=[(1, 16), (8, 3)])
    assert shapes == [(1, 16), (8, 3)]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (8, r"^warmup must be pairs of batch and length, as in .*, got 8$"),
        ((1, 2, 3), "^warmup must be pairs"),
        ((0, 4), "^warmup must be pairs"),
        ((1, True), "^warmup must be pairs"),
        ((1, 17), "16"),  # longer than the model reads, in the words of every run
    ],
)
def test_shapes_that_are_none(make_folder: MakeFolder, shape: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Session(make_folder().path, threads=1, warmup=[shape])
    assert "\n" not in str(raised.value)
