"""Models beyond what one protobuf message can hold, and precisions one after the other in one process.

A message ends at 2 GB; here it ends at 100 kB, so that a model of 600 kB is one that does not go into any.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from losparse_export import PRECISIONS

from .builders import run_graph
from .toy import BOUNDS, HIDDEN, convert, feeds, toy_graph

LIMIT = 100_000


class Limited:
    """onnx's own way of making bytes of a message, with an earlier end."""

    supported_format = "protobuf"
    file_extensions = frozenset({".onnx", ".pb"})

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def serialize_proto(self, proto: Any) -> bytes:
        made: bytes = self.inner.serialize_proto(proto)
        if len(made) > LIMIT:
            raise RuntimeError(f"a message of {len(made)} bytes cannot be serialised")
        return made

    def deserialize_proto(self, serialized: bytes, proto: Any) -> Any:
        return self.inner.deserialize_proto(serialized, proto)


@pytest.fixture
def limited() -> Iterator[None]:
    """Let every message that onnx writes end at `LIMIT`."""
    registry = onnx.serialization.registry
    inner = registry.get("protobuf")
    registry.register(Limited(inner))
    try:
        yield
    finally:
        registry.register(inner)


def large_graph() -> ir.Model:
    """The small graph with a table that alone is larger than a message; no product is."""
    random = np.random.default_rng(1)
    return toy_graph(**{"table.weight": random.normal(size=(3000, HIDDEN)).astype(np.float32)})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_of_a_model_that_no_message_holds(limited, tmp_path, precision):
    with pytest.raises(RuntimeError, match="cannot be serialised"):
        ir.save(large_graph(), tmp_path / "model.onnx")
    result = convert(large_graph(), precision)
    stored = sum(value.const_value.nbytes for value in result.graph.initializers.values())
    assert stored > LIMIT


@pytest.mark.parametrize("precision", BOUNDS)
def test_no_weights_are_left_in_the_files_of_the_library(precision):
    """Those lie in a folder that is gone when the graph comes back."""
    tensors = [value.const_value for value in convert(large_graph(), precision).graph.initializers.values()]
    assert not any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)


@pytest.mark.large
@pytest.mark.parametrize("precision", BOUNDS)
def test_more_than_two_gigabytes(precision):
    """No limit is played here: a table of 2.1 GB, which every precision but fp16 leaves as it is."""
    table = np.random.default_rng(1).standard_normal((11_000_000, HIDDEN), dtype=np.float32)
    result = convert(toy_graph(**{"table.weight": table}), precision)
    stored = result.graph.initializers["table.weight"].const_value
    assert stored is not None and stored.nbytes == table.nbytes // (2 if precision == "fp16" else 1) > 10**9


def test_large_weights_are_converted_in_parts_to_the_numbers_of_the_whole():
    """A weight of 5 MB goes in two parts; 70,000 is beyond half precision, 1e-9 below it, and both are cut."""
    table = np.random.default_rng(1).standard_normal((27_000, HIDDEN), dtype=np.float32)
    table[[0, 26_999], 0], table[5, 5] = (70_000.0, -70_000.0), 1e-9
    found = convert(toy_graph(**{"table.weight": table}), "fp16").graph.initializers["table.weight"].const_value
    assert found is not None and found.dtype == ir.DataType.FLOAT16
    with np.errstate(over="ignore"):
        expected = np.clip(table, -65504, 65504).astype(np.float16)
    expected[5, 5] = np.float16(5.96e-8)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_a_graph_with_large_weights_in_half_precision_is_right():
    table = np.random.default_rng(1).standard_normal((27_000, HIDDEN), dtype=np.float32)
    model = toy_graph(**{"table.weight": table})
    before, after = (run_graph(graph, feeds()) for graph in (model, convert(model, "fp16")))
    for exact, half in zip(before, after, strict=True):
        assert np.abs(half - exact).max() < BOUNDS["fp16"] * np.abs(exact).max()


SCRIPT = """
from tests.export.toy import convert, toy_graph
for precision in {order!r}:
    print(precision, len(convert(toy_graph(), precision).graph))
"""


@pytest.mark.parametrize("order", [("fp16", "int8"), ("fp16", "int8-static", "int4-weights", "fp16")])
def test_precisions_one_after_the_other_in_one_process(order):
    """The first of the libraries puts a folder on the path once, where all of them look for modules when first used."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *sys.path])}
    command = [sys.executable, "-c", SCRIPT.format(order=order)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(order)
