"""Every gate catches what it is for: faults planted in an exported folder, which its own files do not show.

A model's file and what stands beside it are made to agree again after each: only tokens, numbers, labels, operators or
times can tell. What is right was recorded as golden outputs, so no torch is needed here but for recording.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from losparse_export import record_golden
from losparse_runtime import Session, check_golden, compare_latency
from losparse_runtime.testing import assert_accuracy, assert_latency, assert_parity

from .conftest import Pass, Sources, edit_json
from .test_check_faults import relist, swap_words, tokenizer

ROOT = Path(__file__).parents[2]
Graph = Any
Change = Callable[[Graph], None]


@pytest.fixture(scope="module")
def golden(whole_pass: Pass, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("golden") / "golden.npz"
    record_golden(whole_pass.compressed, whole_pass.onnx, file, data=sources.validation, threads=1)
    return file


def replant(folder: Path, change: Change) -> None:
    """Change a folder's graph, and make the folder say that this is how it was written."""
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    onnx.save(model, folder / "model.onnx")
    relist(folder)


def weights_of(graph: Graph, least: int = 512) -> list[Any]:
    """The large matrices of a graph, those of its blocks last."""
    return [each for each in graph.initializer if len(each.dims) == 2 and np.prod(each.dims) >= least]


def replace_weight(tensor: Any, values: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def nodes_of(graph: Graph, kind: str) -> list[Any]:
    found = [node for node in graph.node if node.op_type == kind]
    assert found, f"{kind} is not in the graph: {sorted({node.op_type for node in graph.node})}"
    return found


def place_of(graph: Graph, node: Any) -> int:
    return next(place for place, each in enumerate(graph.node) if each.name == node.name)


def before(graph: Graph, node: Any, number: int, *made: Any) -> None:
    """Put nodes in front of an input of a node, which then reads the last of them."""
    place = place_of(graph, node)
    node.input[number] = made[-1].output[0]
    for offset, each in enumerate(made):
        graph.node.insert(place + offset, each)


def swapped_factors(graph: Graph) -> None:
    by_shape: dict[tuple[int, ...], list[Any]] = {}
    for tensor in weights_of(graph):
        by_shape.setdefault(tuple(tensor.dims), []).append(tensor)
    one, other = next(pair[-2:] for pair in by_shape.values() if len(pair) > 1)
    first, second = numpy_helper.to_array(one), numpy_helper.to_array(other)
    replace_weight(one, second), replace_weight(other, first)


def transposed_index(graph: Graph) -> None:
    """Two kept features change places in one layer, and not in its partner."""
    tensor = weights_of(graph)[-1]
    values = numpy_helper.to_array(tensor).copy()
    values[[0, 1]] = values[[1, 0]]
    replace_weight(tensor, values)


def wrong_epsilon(graph: Graph) -> None:
    for node in nodes_of(graph, "LayerNormalization"):
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 1e-3


def flipped_mask(graph: Graph) -> None:
    node = nodes_of(graph, "Attention")[0]
    before(graph, node, 3, helper.make_node("Not", [node.input[3]], ["flipped"], name="flip"))


def overflow_in_fp16(graph: Graph) -> None:
    """The numbers of one layer pass through a sum in fp16 that is too large for it."""
    node = nodes_of(graph, "Tanh")[0]
    graph.initializer.append(numpy_helper.from_array(np.float16(6e4), "large"))
    before(
        graph,
        node,
        0,
        helper.make_node("Cast", [node.input[0]], ["half"], name="to_half", to=onnx.TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "large"], ["scaled"], name="scale"),
        helper.make_node("Mul", ["scaled", "large"], ["overflown"], name="scale_again"),
        helper.make_node("Cast", ["overflown"], ["full"], name="to_full", to=onnx.TensorProto.FLOAT),
    )


NUMBERS: dict[str, Change] = {
    "swapped factors": swapped_factors,
    "a transposed kept index": transposed_index,
    "a wrong epsilon": wrong_epsilon,
    "one flipped mask": flipped_mask,
    "fp16 overflow": overflow_in_fp16,
}


def test_the_folder_as_it_was_written_passes(whole_pass: Pass, golden: Path, sources: Sources) -> None:
    report = assert_parity(whole_pass.onnx, golden, threads=1)
    assert set(report.parts) == {"random tokens", "texts"}
    found = assert_accuracy(whole_pass.onnx, sources.validation, at_least=0.0, threads=1)
    assert found["fp32"].texts == 64


@pytest.mark.parametrize("fault", NUMBERS)
def test_a_fault_in_the_numbers_is_caught(fault: str, onnx_copy: Path, golden: Path) -> None:
    replant(onnx_copy, NUMBERS[fault])
    with pytest.raises(AssertionError, match="outputs on random tokens differ from golden outputs of PyTorch"):
        assert_parity(onnx_copy, golden, threads=1)


def test_another_tokenizer_is_caught(onnx_copy: Path, golden: Path) -> None:
    tokenizer(swap_words)(onnx_copy)
    relist(onnx_copy)
    with pytest.raises(AssertionError, match=r"tokenizer\.json: model\.vocab\.dull is 5, the reference has 9"):
        assert_parity(onnx_copy, golden, threads=1)
    assert any(line.startswith("tokens: ") for line in check_golden(onnx_copy, golden, threads=1).differences)


def test_permuted_labels_are_caught(onnx_copy: Path, golden: Path, sources: Sources) -> None:
    right = assert_accuracy(onnx_copy, sources.validation, at_least=0.0, threads=1)["fp32"].value
    edit_json(onnx_copy / "losparse.json", labels=["good", "bad"])
    relist(onnx_copy)
    with pytest.raises(AssertionError, match="labels"):
        assert_parity(onnx_copy, golden, threads=1)
    # The text is the same, its label is the other one: what was right is wrong.
    wrong = assert_accuracy(onnx_copy, sources.validation, at_least=0.0, threads=1)["fp32"].value
    assert right > 0.9 and wrong == pytest.approx(1 - right)
    with pytest.raises(
        AssertionError, match=r"accuracy 0\.\d+ \(standard error 0\.\d+, \d+ of 64 texts\), at least 0\.9"
    ):
        assert_accuracy(onnx_copy, sources.validation, at_least=0.9, threads=1)


def torn_normalization(graph: Graph) -> None:
    """A LayerNormalization in parts that onnxruntime does not put together again: the same numbers, more nodes."""
    node = nodes_of(graph, "LayerNormalization")[-1]
    x, scale, bias = node.input
    epsilon = next(attribute.f for attribute in node.attribute if attribute.name == "epsilon")
    graph.initializer.append(numpy_helper.from_array(np.float32(epsilon), "torn_epsilon"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "torn_axes"))
    parts = [
        ("ReduceMean", [x, "torn_axes"], "torn_mean"),
        ("Sub", [x, "torn_mean"], "torn_centred"),
        ("Mul", ["torn_centred", "torn_centred"], "torn_square"),
        ("ReduceMean", ["torn_square", "torn_axes"], "torn_variance"),
        ("Add", ["torn_variance", "torn_epsilon"], "torn_above"),
        ("Sqrt", ["torn_above"], "torn_root"),
        ("Div", ["torn_centred", "torn_root"], "torn_scaled"),
        ("Mul", ["torn_scaled", scale], "torn_weighted"),
        ("Add", ["torn_weighted", bias], node.output[0]),
    ]
    place = place_of(graph, node)
    graph.node.remove(node)
    for offset, (kind, inputs, output) in enumerate(parts):
        graph.node.insert(place + offset, helper.make_node(kind, inputs, [output], name=f"torn_{offset}"))


def test_a_lost_fusion_is_caught(onnx_copy: Path, golden: Path) -> None:
    replant(onnx_copy, torn_normalization)
    report = check_golden(onnx_copy, golden, threads=1)
    assert all(part.passed for part in report.parts.values())  # the numbers are the same
    (line,) = report.differences
    assert line.startswith("operators: ") and "a fusion is lost" in line and "LayerNormalization" in line
    with pytest.raises(AssertionError, match="a fusion is lost"):
        assert_parity(onnx_copy, golden, threads=1)


def slower(products: int) -> Change:
    """A graph that multiplies more than it needs to: its answer takes part in the outputs, times nothing."""

    def change(graph: Graph) -> None:
        size = 256
        values = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) / 16
        graph.initializer.append(numpy_helper.from_array(values, "idle_weight"))
        graph.initializer.append(numpy_helper.from_array(np.float32(0), "idle_zero"))
        graph.initializer.append(numpy_helper.from_array(np.array([1, size]), "idle_shape"))
        node = nodes_of(graph, "LayerNormalization")[-1]
        made = [
            helper.make_node("ReduceMax", [node.input[0]], ["idle_most"], name="idle_most", keepdims=0),
            helper.make_node("Expand", ["idle_most", "idle_shape"], ["idle_0"], name="idle_expand"),
        ]
        for step in range(products):
            made.append(
                helper.make_node("MatMul", [f"idle_{step}", "idle_weight"], [f"idle_{step + 1}"], name=f"idle{step}")
            )
        made.append(helper.make_node("ReduceMax", [f"idle_{products}"], ["idle_last"], name="idle_last", keepdims=0))
        made.append(helper.make_node("Mul", ["idle_last", "idle_zero"], ["idle_nothing"], name="idle_nothing"))
        made.append(helper.make_node("Add", [node.input[0], "idle_nothing"], ["idle_same"], name="idle_same"))
        before(graph, node, 0, *made)

    return change


def test_a_graph_that_is_three_tenths_slower_is_caught(whole_pass: Pass, onnx_copy: Path, golden: Path) -> None:
    original = (onnx_copy / "model.onnx").read_bytes()
    for products in (4, 8, 16, 32, 64, 128):
        (onnx_copy / "model.onnx").write_bytes(original)
        replant(onnx_copy, slower(products))
        measured = compare_latency(
            Session(onnx_copy, threads=1), Session(whole_pass.onnx, threads=1), batch=1, length=16, at_most_ratio=9e9
        ).ratio
        if measured > 1.3:
            break
    else:
        pytest.fail(f"the planted products make it {measured:.2f} times as long, 1.3 was meant")
    shape = {"batch": 1, "length": 16, "threads": 1}
    with pytest.raises(
        AssertionError, match=r"takes \d\.\d+ times as long .* measured 3 times\), at most 1\.1 is allowed"
    ):
        assert_latency(onnx_copy, against=whole_pass.onnx, at_most_ratio=1.1, **shape)
    assert assert_latency(whole_pass.onnx, against=whole_pass.onnx, at_most_ratio=1.1, **shape).passed


def test_a_checkpoint_is_the_reference_by_the_entry_point(
    whole_pass: Pass, onnx_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry point of pyproject.toml, installed as metadata of its own: this tree may be installed without it."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    (target,) = declared["losparse_runtime.references"].values()
    info = tmp_path / "planted_references-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted-references\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[losparse_runtime.references]\npytorch = {target}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told: dict[str, object] = {}
    assert assert_parity(whole_pass.onnx, whole_pass.compressed, threads=1, record=told.__setitem__).passed
    assert 0 <= float(str(told["parity on random tokens"])) < 1e-3
    replant(onnx_copy, wrong_epsilon)
    told.clear()
    with pytest.raises(AssertionError, match="outputs on random tokens differ from PyTorch"):
        assert_parity(onnx_copy, whole_pass.compressed, threads=1, record=told.__setitem__)
    assert told["parity on random tokens"]  # also where it failed


def test_golden_files_that_were_changed_are_refused(golden: Path, whole_pass: Pass, tmp_path: Path) -> None:
    from losparse_runtime import InputError

    with np.load(golden, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = next(name for name in arrays if "/output/" in name)
    np.savez(tmp_path / "edited.npz", **{**arrays, name: arrays[name] + np.float32(1)})
    with pytest.raises(InputError, match="was changed after it was recorded"):
        check_golden(whole_pass.onnx, tmp_path / "edited.npz")
    (tmp_path / "cut.npz").write_bytes(golden.read_bytes()[:500])
    with pytest.raises(InputError, match="is no golden file, or is damaged"):
        check_golden(whole_pass.onnx, tmp_path / "cut.npz")
    with pytest.raises(InputError, match="does not exist; record one with"):
        check_golden(whole_pass.onnx, tmp_path / "none.npz")
    about = json.loads(arrays["about"].tobytes())
    np.savez(tmp_path / "new.npz", about=np.frombuffer(json.dumps({**about, "format": 9}).encode(), np.uint8))
    with pytest.raises(InputError, match="has format 9"):
        check_golden(whole_pass.onnx, tmp_path / "new.npz")
