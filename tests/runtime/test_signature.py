"""Graphs that no exporter writes yet - one with a state, one with a decoder - are run by their signatures alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from losparse_runtime import FolderError, InputError
from losparse_runtime.contract.feeds import Draw
from losparse_runtime.contract.fields import Fields
from losparse_runtime.contract.signature import Signature, parse_signature
from losparse_runtime.contract.tensors import State, TensorSpec, Vocabulary

_IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"))
_MASK = TensorSpec("attention_mask", "int64", ("batch", "past+sequence"))


def read(values: Any) -> Signature:
    """Read a signature from the text of its JSON form."""
    return parse_signature(Fields(Path("losparse.json"), json.loads(json.dumps(values))))


# A graph with a state ------------------------------------------------------------------------------------------------

SUMMER = Signature(
    inputs=(_IDS, _MASK, TensorSpec("past.values", "float32", ("batch", "past", 1))),
    outputs=(
        TensorSpec("sums", "float32", ("batch", "sequence")),
        TensorSpec("present.values", "float32", ("batch", "past+sequence", 1)),
    ),
    states=(State("past.values", "present.values"),),
    vocabulary=Vocabulary(size=50, padding=0),
    longest=12,
)


def open_graph(nodes: list[Any], signature: Signature, *constants: Any) -> Any:
    """Make a graph of nodes with the inputs and outputs of a signature, and open it."""
    kinds = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    ends = [
        [onnx.helper.make_tensor_value_info(spec.name, kinds[spec.dtype], list(spec.shape)) for spec in specs]
        for specs in (signature.inputs, signature.outputs)
    ]
    graph = onnx.helper.make_graph(nodes, "toy", *ends, initializer=list(constants))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def constant(name: str, values: Any) -> Any:
    return onnx.numpy_helper.from_array(np.array(values, np.int64), name)


@pytest.fixture(scope="module")
def summer() -> Any:
    """For every token the sum of all tokens of its text so far, padding left out; it remembers the tokens."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["input_ids"], ["numbers"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["numbers", "last"], ["values"]),
        node("Concat", ["past.values", "values"], ["present.values"], axis=1),
        node("Squeeze", ["present.values", "last"], ["all"]),
        node("Cast", ["attention_mask"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["all", "real"], ["counted"]),
        node("CumSum", ["counted", "first"], ["running"]),
        node("Shape", ["past.values"], ["before"], start=1, end=2),
        node("Slice", ["running", "before", "end", "one"], ["sums"]),
    ]
    numbers = (constant("last", [-1]), constant("first", 1), constant("end", [1000]), constant("one", [1]))
    return open_graph(nodes, SUMMER, *numbers)


def run(session: Any, signature: Signature, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    names = [spec.name for spec in signature.outputs]
    return dict(zip(names, session.run(names, signature.check(feeds)), strict=True))


def test_a_graph_with_a_state_runs_step_by_step_as_at_once(summer):
    ids = SUMMER.random_feeds(Draw(2, 6, seed=3))["input_ids"]
    whole = run(summer, SUMMER, {"input_ids": ids, **SUMMER.empty_states(batch=2)})
    states = SUMMER.empty_states(batch=2)
    assert states["past.values"].shape == (2, 0, 1)
    steps = []
    for token in ids.T:
        outputs = run(summer, SUMMER, {"input_ids": np.ascontiguousarray(token[:, None]), **states})
        steps.append(outputs["sums"])
        states = SUMMER.next_states(outputs)
    assert np.array_equal(np.concatenate(steps, axis=1), whole["sums"])
    assert np.array_equal(whole["sums"], ids.cumsum(axis=1))
    assert np.array_equal(states["past.values"], whole["present.values"])


def test_states_that_are_left_out_are_empty(summer):
    ids = np.array([[1, 2, 3]])
    checked = SUMMER.check({"input_ids": ids})
    assert list(checked) == ["input_ids", "attention_mask", "past.values"]
    assert checked["past.values"].shape == (1, 0, 1) and checked["attention_mask"].tolist() == [[1, 1, 1]]
    assert run(summer, SUMMER, {"input_ids": ids})["sums"].tolist() == [[1.0, 3.0, 6.0]]


@pytest.mark.parametrize("padding", ["none", "drawn", "half"])
def test_random_feeds_with_a_past_run(summer, padding):
    feeds = SUMMER.random_feeds(Draw(4, 3, past=5, seed=1, padding=padding))
    assert feeds["past.values"].shape == (4, 5, 1) and feeds["past.values"].std() > 0.1
    assert feeds["attention_mask"].shape == (4, 8) and feeds["attention_mask"][:, :5].all()
    assert (feeds["attention_mask"][:, 5:] == 0).any() == (padding != "none")
    outputs = run(summer, SUMMER, feeds)
    numbers = np.concatenate([feeds["past.values"][..., 0], feeds["input_ids"]], axis=1) * feeds["attention_mask"]
    np.testing.assert_allclose(outputs["sums"], numbers.cumsum(axis=1)[:, 5:], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"past.values": np.zeros((2, 4, 1), np.float32)}, r"'attention_mask' has past\+sequence size 8, past.values "),
        ({"past.values": np.zeros((1, 5, 1), np.float32)}, r"'past.values' has batch size 1, input_ids has 2"),
        ({"past.values": np.zeros((2, 5, 2), np.float32)}, r"'past.values' has 1 size 2, the model has 1"),
        ({"past.values": np.zeros((2, 5, 1), np.float64)}, r"'past.values' must be float32"),
        ({"attention_mask": np.full((2, 8), 2)}, r"'attention_mask' must be in 0\.\.1, got 2"),
    ],
)
def test_a_past_that_does_not_fit_is_named(change, message):
    feeds = SUMMER.random_feeds(Draw(2, 3, past=5))
    with pytest.raises(InputError, match=message):
        SUMMER.check(feeds | change)


def test_past_and_text_together_have_the_model_s_positions():
    SUMMER.check(SUMMER.random_feeds(Draw(1, 7, past=5)))
    with pytest.raises(InputError, match="input_ids has 8 tokens a row after 5 of the past, the model has 12 pos"):
        SUMMER.check(SUMMER.random_feeds(Draw(1, 8, past=5)))


def test_a_state_of_one_size_begins_with_zeros():
    shape: tuple[int | str, ...] = ("batch", 4)
    signature = replace(
        SUMMER,
        inputs=(_IDS, TensorSpec("before", "float32", shape)),
        outputs=(TensorSpec("after", "float32", shape),),
        states=(State("before", "after"),),
    )
    assert np.array_equal(signature.check({"input_ids": np.array([[1], [2]])})["before"], np.zeros((2, 4)))
    assert read(signature.to_json()).states == signature.states


# Two graphs ----------------------------------------------------------------------------------------------------------

_HIDDEN = TensorSpec("last_hidden_state", "float32", ("batch", "sequence", 1))
PAIR = {
    "encoder": Signature(inputs=(_IDS, replace(_MASK, shape=("batch", "sequence"))), outputs=(_HIDDEN,)),
    "decoder": Signature(
        inputs=(
            _IDS,
            TensorSpec("encoder_hidden_states", "float32", ("batch", "source", 1)),
            TensorSpec("encoder_attention_mask", "int64", ("batch", "source")),
        ),
        outputs=(TensorSpec("logits", "float32", ("batch", "sequence", 1)),),
    ),
}


def test_an_encoder_feeds_a_decoder():
    """The toy says of every token how far it is from the sum of what the encoder read."""
    node = onnx.helper.make_node
    to_numbers = [
        node("Cast", ["input_ids"], ["floats"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "last"], ["numbers"]),
    ]
    masked = [
        node("Cast", ["attention_mask"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["real", "last"], ["factors"]),
        node("Mul", ["numbers", "factors"], ["last_hidden_state"]),
    ]
    summed = [
        node("Cast", ["encoder_attention_mask"], ["real"], to=onnx.TensorProto.FLOAT),
        node("Unsqueeze", ["real", "last"], ["factors"]),
        node("Mul", ["encoder_hidden_states", "factors"], ["memory"]),
        node("ReduceSum", ["memory", "middle"], ["sum"]),
        node("Sub", ["numbers", "sum"], ["logits"]),
    ]
    last, middle = constant("last", [-1]), constant("middle", [1])
    encoder = open_graph([*to_numbers, *masked], PAIR["encoder"], last)
    decoder = open_graph([*to_numbers, *summed], PAIR["decoder"], last, middle)
    words = {"input_ids": np.array([[1, 2, 4], [5, 6, 9]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
    memory = run(encoder, PAIR["encoder"], words)["last_hidden_state"]
    starts = np.array([[7], [12]])
    feeds = {"input_ids": starts, "encoder_hidden_states": memory, "encoder_attention_mask": words["attention_mask"]}
    assert run(decoder, PAIR["decoder"], feeds)["logits"].ravel().tolist() == [0.0, 1.0]
    del feeds["encoder_attention_mask"]  # all tokens count then; the encoder made the padded one 0
    assert run(decoder, PAIR["decoder"], feeds)["logits"].ravel().tolist() == [0.0, 1.0]


def test_two_graphs_are_written_by_name_and_made_up_apart():
    written = {name: signature.to_json() for name, signature in PAIR.items()}
    assert {name: read(values) for name, values in written.items()} == PAIR
    decoder = PAIR["decoder"].within(Vocabulary(size=9))
    feeds = decoder.random_feeds(Draw(2, 1, sizes={"source": 7}))
    assert feeds["encoder_hidden_states"].shape == (2, 7, 1) and feeds["input_ids"].shape == (2, 1)
    decoder.check(feeds)
    with pytest.raises(InputError, match="'encoder_attention_mask' has source size 6, encoder_hidden_states has 7"):
        decoder.check(feeds | {"encoder_attention_mask": np.ones((2, 6), np.int64)})


# What is made up -----------------------------------------------------------------------------------------------------


def test_an_axis_without_a_size_is_named():
    signature = Signature((_IDS, TensorSpec("pixels", "float32", ("batch", "height"))), vocabulary=Vocabulary(size=5))
    with pytest.raises(InputError, match=r"input 'pixels' has the axis 'height', whose size must be given"):
        signature.random_feeds(Draw(1, 2))
    assert signature.random_feeds(Draw(1, 2, sizes={"height": 3}))["pixels"].shape == (1, 3)


def test_what_traces_are_made_with_ends_in_padding():
    signature = Signature((_IDS, replace(_MASK, shape=("batch", "sequence"))), vocabulary=Vocabulary(size=5))
    feeds = signature.counted_feeds(batch=2, length=4)
    assert feeds["input_ids"].tolist() == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert signature.free_axes() == {name: {0: "batch", 1: "sequence"} for name in feeds}


@pytest.mark.parametrize(("side", "types"), [("right", [0, 1, 0, 0]), ("left", [0, 0, 0, 1])])
def test_the_second_half_of_a_text_is_of_the_second_type_wherever_it_is_padded(side, types):
    types_of = TensorSpec("token_type_ids", "int64", ("batch", "sequence"))
    signature = Signature((_IDS, types_of), vocabulary=Vocabulary(size=9))
    feeds = signature.random_feeds(Draw(2, 4, padding="half", side=side, pairs=True))
    assert feeds["token_type_ids"].tolist() == [[0, 0, 1, 1], types]


def test_rows_are_padded_on_either_side():
    signature = Signature(SUMMER.inputs, vocabulary=Vocabulary(size=9, padding=8))
    feeds = {"input_ids": np.array([[1, 2]])}  # what is left out stays out
    assert signature.pad(feeds, 4, "right")["input_ids"].tolist() == [[1, 2, 8, 8]]
    assert signature.pad(feeds, 4, "left")["input_ids"].tolist() == [[8, 8, 1, 2]]


# JSON ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"states": [{"past": "past", "present": "present.values"}]}, r"'states\[0\].past' must be one of input_ids, "),
        (
            {"states": [{"past": "input_ids", "present": "sums"}]},
            r"'states\[0\].present' must be an output of the ",
        ),
        ({"states": 2 * SUMMER.to_json()["states"]}, "'states' must be a list of states, each input and each output"),
        ({"inputs": []}, "'inputs' must be a list of at least one tensor"),
        ({"inputs": [SUMMER.inputs[0].to_dict() | {"role": "key"}]}, r"'inputs\[0\].role' must be one of tokens, mask"),
    ],
)
def test_a_damaged_signature_is_refused_by_its_field(change, message):
    with pytest.raises(FolderError, match=message):
        read(SUMMER.to_json() | change)


def test_what_a_folder_without_states_writes_has_no_word_of_them():
    """Folders of all versions read and write the same two lists."""
    assert PAIR["encoder"].to_json() == {
        "inputs": [
            {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"]},
            {"name": "attention_mask", "dtype": "int64", "shape": ["batch", "sequence"]},
        ],
        "outputs": [{"name": "last_hidden_state", "dtype": "float32", "shape": ["batch", "sequence", 1]}],
    }
