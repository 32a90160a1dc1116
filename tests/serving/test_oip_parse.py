"""Bodies of the Open Inference Protocol to arrays and back, in all types and shapes, beside what tritonclient says."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.http import InferResult

from losparse_runtime.contract.tensors import DTYPES
from losparse_runtime.errors import InputError, RunError
from losparse_runtime.serving.oip.datatypes import DATATYPES
from losparse_runtime.serving.oip.metadata import model_metadata
from losparse_runtime.serving.oip.request import InferRequest, WantedOutput, parse_request
from losparse_runtime.serving.oip.response import answer_bytes, render_response

from .oip_bodies import IDS, TEXTS, behind, binary_entry, by_client, entry, feeds, one, wanted, written

Array = NDArray[Any]


@st.composite
def arrays(draw: st.DrawFn, least_axes: int = 0) -> Array:
    """Finite arrays of every type and of up to four axes."""
    dtype = np.dtype(draw(st.sampled_from(sorted(DATATYPES))))
    shape = draw(hnp.array_shapes(min_dims=least_axes, max_dims=4, min_side=1, max_side=4))
    width = dtype.itemsize * 8
    elements: Any = None
    if dtype.kind == "f":
        elements = st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    return draw(hnp.arrays(dtype, shape, elements=elements))


def same(left: Array, right: Array) -> bool:
    """Bit for bit: -0.0 is another number than 0.0."""
    return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def test_every_type_of_a_signature_has_a_name_in_the_protocol() -> None:
    assert set(DTYPES) <= set(DATATYPES)


@given(array=arrays(), binary=st.booleans())
@settings(deadline=None)
def test_what_tritonclient_writes_is_read_as_it_was(array: Array, binary: bool) -> None:
    body, length = by_client({"x": array}, binary=binary)
    request = parse_request(body, length, one(array))
    assert same(one(array).check(request.inputs)["x"], array)
    assert request.outputs == (WantedOutput("y", binary=True),)  # tritonclient asks for bytes where it names no output


@given(array=arrays(), nested=st.booleans(), ending=st.sampled_from([b"", b" ", b"\n\t"]))
@settings(deadline=None)
def test_json_may_be_one_list_or_lists_in_lists(array: Array, nested: bool, ending: bytes) -> None:
    data = array.tolist() if nested and array.ndim else array.ravel().tolist()
    request = parse_request(written(entry(array, "x", data=data)) + ending, None, one(array))
    assert same(request.inputs["x"], array)
    assert request.outputs == (WantedOutput("y", binary=False),)


@given(outputs=st.lists(st.tuples(arrays(), st.booleans()), min_size=1, max_size=3), name=st.text(max_size=20))
@settings(deadline=None)
def test_tritonclient_reads_what_was_written(outputs: list[tuple[Array, bool]], name: str) -> None:
    named = {f"y{place}": array for place, (array, _) in enumerate(outputs)}
    asked = tuple(WantedOutput(f"y{place}", binary) for place, (_, binary) in enumerate(outputs))
    body, length = render_response(named, InferRequest({}, asked, id=name), "model", "7")
    result = InferResult.from_response_body(body, header_length=length)
    assert (length is None) == (not any(binary for _, binary in outputs))
    assert all(same(result.as_numpy(name), array) for name, array in named.items())
    said = result.get_response()
    assert (said["model_name"], said["model_version"], said["id"]) == ("model", "7", name)


@given(array=arrays(), binary=st.booleans(), cut=st.integers(0, 200), flipped=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_damaged_bodies_are_read_or_refused_in_one_line(array: Array, binary: bool, cut: int, flipped: int) -> None:
    body, length = by_client({"x": array}, binary=binary)
    place = cut % len(body)
    for damaged in (body[:place], body[:place] + bytes([flipped]) + body[place + 1 :], body + bytes([flipped])):
        try:
            read = feeds(damaged, length, one(array))["x"]
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert read.dtype == array.dtype and np.isfinite(read.astype(np.float64)).all()


def test_bytes_share_the_memory_of_the_body_where_their_place_allows() -> None:
    array = np.arange(8, dtype=np.uint8)
    body, length = by_client({"x": array}, binary=True)
    read = parse_request(body, length, one(array)).inputs["x"]
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("padding", range(8))
def test_kernels_get_whole_words_wherever_the_bytes_lie(padding: int) -> None:
    body, length = behind(IDS.tobytes(), binary_entry(IDS), id="i" * padding)
    read = parse_request(body, length, TEXTS).inputs["input_ids"]
    assert same(read, IDS) and read.flags.aligned and read.flags.c_contiguous


def test_inputs_with_a_default_may_be_left_out() -> None:
    assert same(feeds(written(entry(IDS)), None, TEXTS)["attention_mask"], np.ones_like(IDS))


def test_several_sections_follow_each_other_in_the_order_of_the_inputs() -> None:
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.int64)
    inputs = binary_entry(mask, "attention_mask"), binary_entry(IDS)
    request = parse_request(*behind(mask.tobytes() + IDS.tobytes(), *inputs), TEXTS)
    assert same(request.inputs["attention_mask"], mask) and same(request.inputs["input_ids"], IDS)


def test_json_and_bytes_may_come_in_one_request() -> None:
    mask = np.array([[1, 1, 1], [1, 1, 0]], np.int64)
    request = parse_request(*behind(IDS.tobytes(), entry(mask, "attention_mask"), binary_entry(IDS)), TEXTS)
    assert same(request.inputs["attention_mask"], mask) and same(request.inputs["input_ids"], IDS)


def test_outputs_come_as_asked_and_in_that_order() -> None:
    asked = [wanted("hidden", binary=False), wanted("logits", binary=True)]
    body, length = by_client({"input_ids": IDS}, binary=True, outputs=asked, request_id="seven", timeout=250_000)
    request = parse_request(body, length, TEXTS)
    assert request.outputs == (WantedOutput("hidden", False), WantedOutput("logits", True))
    assert (request.id, request.timeout_s) == ("seven", 0.25)
    assert request.parameters == {"timeout": 250_000}


def test_an_output_that_says_nothing_comes_as_the_request_says_for_all() -> None:
    said = {"outputs": [{"name": "logits"}], "parameters": {"binary_data_output": True}}
    assert parse_request(written(entry(IDS), **said), None, TEXTS).outputs == (WantedOutput("logits", True),)


@pytest.mark.parametrize("said", [{}, {"outputs": []}])
def test_all_outputs_come_where_none_is_named(said: dict[str, object]) -> None:
    request = parse_request(written(entry(IDS), **said), None, TEXTS)
    assert request.outputs == (WantedOutput("logits", False), WantedOutput("hidden", False))


def test_the_shortest_spelling_of_the_largest_float32_fits() -> None:
    array = np.array([np.finfo(np.float32).max])
    request = parse_request(
        written(entry(array.astype(np.float32), "x", data=[3.4028235e38])), None, one(np.float32([0]))
    )
    assert request.inputs["x"][0] == array[0]


@pytest.mark.parametrize("parse_depth", [300, 100_000])
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"inputs":[', b'{"parameters":{"a":['])
def test_deep_json_is_refused(parse_depth: int, opening: bytes) -> None:
    with pytest.raises(InputError, match="the body must be JSON: recursion limit exceeded"):
        parse_request(opening * parse_depth, None, TEXTS)


def test_a_huge_claim_takes_no_memory() -> None:
    claims = [
        written(entry(IDS, shape=[2, 10**9], data=[])),
        written(entry(IDS, shape=[10**12, 10**12], data=[])),
        written(entry(IDS, shape=[2**31 - 1, 2**31 - 1], data=[1])),
        written(entry(IDS, shape=[0, 2**31 - 1], data=[])),
        written(entry(IDS, shape=[1] * 10_000, data=[1])),
    ]
    sized = [
        behind(b"", binary_entry(IDS, shape=[2**31 - 1, 2**31 - 1])),
        behind(b"", binary_entry(IDS, shape=[2, 10**9], parameters={"binary_data_size": 16 * 10**9})),
        behind(b"", binary_entry(IDS, shape=[0, 2**31 - 1], parameters={"binary_data_size": 0})),
    ]
    tracemalloc.start()
    try:
        for body, length in [*((body, None) for body in claims), *sized]:
            with pytest.raises(InputError):
                feeds(body, length, TEXTS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20  # the largest body has 30 kB


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_json_answers_hold_numbers_alone(value: float) -> None:
    logits = np.array([[1, value]], np.float32)
    with pytest.raises(RunError, match=r"output 'logits' holds NaN or infinity.*binary_data"):
        render_response({"logits": logits}, InferRequest({}, (WantedOutput("logits", False),)), "m", "1")
    body, length = render_response({"logits": logits}, InferRequest({}, (WantedOutput("logits", True),)), "m", "1")
    assert same(InferResult.from_response_body(body, header_length=length).as_numpy("logits"), logits)


def test_an_answer_without_a_name_has_none() -> None:
    body, length = render_response(
        {"y": np.zeros(2, np.float32)}, InferRequest({}, (WantedOutput("y", False),)), "m", "1"
    )
    outputs = [{"name": "y", "datatype": "FP32", "shape": [2], "data": [0.0, 0.0]}]
    assert (json.loads(body), length) == ({"model_name": "m", "model_version": "1", "outputs": outputs}, None)


@pytest.mark.parametrize("count", [0, 1, 16_383, 16_384, 16_385, 50_000])
def test_long_answers_are_written_in_pieces_that_make_one_list(count: int) -> None:
    array = np.random.default_rng(0).normal(size=count).astype(np.float32)
    body, _ = render_response({"y": array}, InferRequest({}, (WantedOutput("y", False),)), "m", "1")
    assert same(np.array(json.loads(body)["outputs"][0]["data"], np.float32), array)


def test_an_answer_is_measured_before_it_is_made() -> None:
    body, length = by_client({"input_ids": IDS}, binary=True, outputs=[wanted("logits", binary=False)])
    # 2 rows of 3 tokens: 4 logits as float32 and as JSON, and 18 numbers that the model gives unasked.
    assert answer_bytes(parse_request(body, length, TEXTS), TEXTS) == 4 * (4 + 64) + 18 * 4


def test_free_axes_are_minus_1() -> None:
    said = model_metadata("m", ["1"], TEXTS)
    assert said["inputs"][0] == {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
    assert said["outputs"][1] == {"name": "hidden", "datatype": "FP32", "shape": [-1, -1, 3]}
