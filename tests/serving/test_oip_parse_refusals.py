"""Every mistake in a request of the Open Inference Protocol has one line that says what is wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest

from losparse_runtime.contract.signature import Signature
from losparse_runtime.errors import InputError

from .oip_bodies import IDS, TEXTS, behind, binary_entry, entry, feeds, one, written

BINARY = IDS.tobytes()
SIZE = len(BINARY)

# What is sent, and what is said of it.
BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "the body must be JSON: EOF"),
    "no JSON": (b"input_ids=5", "the body must be JSON: expected value at line 1 column 1"),
    "half": (written(entry(IDS))[:-9], "the body must be JSON: EOF"),
    "two": (written(entry(IDS)) * 2, "the body must be JSON: trailing characters"),
    "no UTF-8": (b'{"id": "\xff"}', "the body must be JSON: invalid unicode code point"),
    "lone surrogate": (b'{"id": "\\ud800"}', "the body must be JSON: "),
    "UTF-16": ('{"id": "a"}'.encode("utf-16"), "the body must be JSON: "),
    "NaN": (written(entry(IDS, data=[[5, float("nan"), 7], [8, 9, 0]])), "the body must be JSON: expected value"),
    "infinity": (written(entry(IDS, data=[[5, float("-inf"), 7], [8, 9, 0]])), "the body must be JSON: "),
    "5000 digits": (b'{"id": ' + b"9" * 5000 + b"}", "the body must be JSON: number out of range"),
    "a list": (b"[]", "the body must be a JSON object, got []"),
    "null": (b"null", "the body must be a JSON object, got None"),
    "no inputs": (b"{}", "inputs are missing; the model takes input_ids, attention_mask"),
    "empty inputs": (written(), "input input_ids, attention_mask is missing"),
    "inputs no list": (b'{"inputs": {}}', "inputs must be a list of objects, got {}"),
    "input no object": (written(5), "each of the inputs must be a JSON object, got 5"),
    "no name": (
        written({"shape": [1]}),
        "input must be one of those the model has (input_ids, attention_mask), got None",
    ),
    "unknown name": (written(entry(IDS, "ids")), "(input_ids, attention_mask), got 'ids'"),
    "name of two lines": (written(entry(IDS, "a\nb")), r"got 'a\nb'"),
    "long name": (written(entry(IDS, "a" * 10_000)), f"got '{'a' * 56}..."),
    "name no string": (written(entry(IDS, name=["input_ids"])), "got ['input_ids']"),
    "twice": (written(entry(IDS), entry(IDS)), "input 'input_ids' comes twice"),
    "texts": (
        written(entry(IDS, datatype="BYTES", data=["a"])),
        "must be INT64, got BYTES; send texts to the task's route",
    ),
    "other datatype": (written(entry(IDS, datatype="INT32")), "must have the datatype INT64, got 'INT32'"),
    "no datatype": (written({"name": "input_ids", "shape": [2, 3], "data": []}), "the datatype INT64, got None"),
    "datatype no string": (written(entry(IDS, datatype={"a": 1})), "the datatype INT64, got {'a': 1}"),
    "no shape": (written(entry(IDS, shape=None)), "must have a shape of sizes in 0..2147483647, got None"),
    "shape no list": (written(entry(IDS, shape="23")), "a shape of sizes in 0..2147483647, got '23'"),
    "negative size": (written(entry(IDS, shape=[2, -3])), "a shape of sizes in 0..2147483647, got [2, -3]"),
    "size true": (written(entry(IDS, shape=[2, True])), "a shape of sizes in 0..2147483647, got [2, True]"),
    "size 3.0": (written(entry(IDS, shape=[2, 3.0])), "a shape of sizes in 0..2147483647, got [2, 3.0]"),
    "huge size": (written(entry(IDS, shape=[2, 10**12])), "a shape of sizes in 0..2147483647, got [2, 1000000000000]"),
    "one axis": (written(entry(IDS, shape=[6])), "must have the 2 axes (batch, sequence), got shape [6]"),
    "no rows": (written(entry(IDS, shape=[0, 3], data=[])), "at least one entry on axis batch, got shape (0, 3)"),
    "no data": (written(entry(IDS, data=None)), "must have either data or the parameter binary_data_size"),
    "data null": (
        b'{"inputs":[{"name":"input_ids","shape":[1,1],"datatype":"INT64","data":null}]}',
        "a list, got null",
    ),
    "data a number": (written(entry(IDS, data=5)), "data of input 'input_ids' must be a list, got a whole number"),
    "data an object": (written(entry(IDS, data={})), "data of input 'input_ids' must be a list, got an object"),
    "too few": (written(entry(IDS, data=[5, 6])), "data of input 'input_ids' has 2 entries, its shape (2, 3) has 6"),
    "too many": (written(entry(IDS, data=[5] * 7)), "data of input 'input_ids' has 7 entries, its shape (2, 3) has 6"),
    "one row": (written(entry(IDS, data=[[5, 6, 7]])), "has 1 entries on axis 0, its shape (2, 3) has 2"),
    "ragged": (written(entry(IDS, data=[[5, 6, 7], [8, 9]])), "has 2 entries on axis 1, its shape (2, 3) has 3"),
    "half nested": (written(entry(IDS, data=[[5, 6, 7], 8])), "one list, or lists in lists as its shape (2, 3) says"),
    "too deep": (written(entry(IDS, data=[[[5], [6], [7]]] * 2)), "must be whole numbers, got a list"),
    "string": (written(entry(IDS, data=[5, 6, "7", 8, 9, 0])), "must be whole numbers, got a string"),
    "null in data": (written(entry(IDS, data=[5, 6, None, 8, 9, 0])), "must be whole numbers, got null"),
    "true in data": (written(entry(IDS, data=[5, 6, True, 8, 9, 0])), "must be whole numbers, got true or false"),
    "fraction": (written(entry(IDS, data=[5, 6, 7.5, 8, 9, 0])), "must be whole numbers, got a number with a fraction"),
    "2**63": (written(entry(IDS, data=[5, 6, 2**63, 8, 9, 0])), "must be in -9223372036854775808..9223372036854775807"),
    "unknown token": (written(entry(IDS, data=[5, 6, 100, 8, 9, 0])), "must be in 0..99, got 100 at (0, 2)"),
    "too long": (
        written(entry(np.ones((1, 17), np.int64))),
        "input_ids has 17 tokens a row, the model has 16 positions",
    ),
    "other sizes": (written(entry(IDS), entry(IDS.T, "attention_mask")), "batch size 3, input_ids has 2"),
    "size without header": (written(binary_entry(IDS)), "send the header Inference-Header-Content-Length"),
    "shared memory": (
        written(entry(IDS, data=None, parameters={"shared_memory_region": "a"})),
        "input 'input_ids' is in shared memory, which is not read",
    ),
    "parameters no object": (
        written(entry(IDS, parameters=[])),
        "parameters of input 'input_ids' must be a JSON object",
    ),
    "id no string": (written(entry(IDS), id=7), "id must be a string, got 7"),
    "request's parameters": (written(entry(IDS), parameters=7), "parameters must be a JSON object, got 7"),
    "binary_data_output": (
        written(entry(IDS), parameters={"binary_data_output": "yes"}),
        "parameter binary_data_output must be true or false, got 'yes'",
    ),
    "timeout": (
        written(entry(IDS), parameters={"timeout": -1}),
        "parameter timeout must be a whole number of microseconds >= 0, got -1",
    ),
    "sequence": (
        written(entry(IDS), parameters={"sequence_id": 7}),
        "parameter sequence_id is for models that keep a state",
    ),
    "outputs no list": (written(entry(IDS), outputs="logits"), "outputs must be a list of objects, got 'logits'"),
    "output no object": (
        written(entry(IDS), outputs=["logits"]),
        "each of the outputs must be a JSON object, got 'logits'",
    ),
    "unknown output": (
        written(entry(IDS), outputs=[{"name": "a"}]),
        "output must be one of those the model has (logits, hidden)",
    ),
    "output twice": (written(entry(IDS), outputs=[{"name": "logits"}] * 2), "output 'logits' comes twice"),
    "binary_data": (
        written(entry(IDS), outputs=[{"name": "logits", "parameters": {"binary_data": 1}}]),
        "parameter binary_data must be true or false, got 1",
    ),
    "output's parameters": (
        written(entry(IDS), outputs=[{"name": "logits", "parameters": []}]),
        "parameters of output 'logits' must be a JSON object, got []",
    ),
    "classes": (
        written(entry(IDS), outputs=[{"name": "logits", "parameters": {"classification": 2}}]),
        "output 'logits' is wanted as classes; ask /v1/classify",
    ),
    "output in shared memory": (
        written(entry(IDS), outputs=[{"name": "logits", "parameters": {"shared_memory_region": "a"}}]),
        "output 'logits' is wanted in shared memory",
    ),
}

SECTIONS: dict[str, tuple[bytes, int, str]] = {
    "header 0": (written(entry(IDS)), 0, "Inference-Header-Content-Length must be in 1.."),
    "negative header": (written(entry(IDS)), -5, "Inference-Header-Content-Length must be in 1.."),
    "header beyond the body": (b"{}", 3, "must be in 1..2, the bytes of the body, got 3"),
    "header too short": (*behind(BINARY, binary_entry(IDS))[:1], 9, "the body must be JSON: EOF"),
    "too few bytes": (
        *behind(BINARY[:-1], binary_entry(IDS)),
        f"has binary_data_size {SIZE}, {SIZE - 1} bytes are left",
    ),
    "bytes left": (*behind(BINARY + b"1", binary_entry(IDS)), "1 bytes of the body belong to no input"),
    "bytes of no input": (*behind(BINARY, entry(IDS)), f"{SIZE} bytes of the body belong to no input"),
    "other size": (
        *behind(BINARY, binary_entry(IDS, parameters={"binary_data_size": 40}), binary_entry(IDS, "attention_mask")),
        "has binary_data_size 40, its shape (2, 3) of INT64 has 48 bytes",
    ),
    "negative binary size": (
        *behind(BINARY, binary_entry(IDS, parameters={"binary_data_size": -48})),
        "binary_data_size of input 'input_ids' must be a whole number >= 0, got -48",
    ),
    "binary size true": (
        *behind(BINARY, binary_entry(IDS, parameters={"binary_data_size": True})),
        "binary_data_size of input 'input_ids' must be a whole number >= 0, got True",
    ),
    "both": (*behind(BINARY, binary_entry(IDS, data=[1])), "must have either data or the parameter binary_data_size"),
    "huge binary size": (
        *behind(BINARY, binary_entry(IDS, parameters={"binary_data_size": 10**30})),
        f"has binary_data_size {10**30}, 48 bytes are left",
    ),
}

VALUES: list[tuple[str, object, str]] = [
    ("float32", 1e39, "must be finite numbers in -3.4028235e+38..3.4028235e+38, without NaN"),
    ("float16", 65520.0, "must be finite numbers in -65504..65504, without NaN"),
    ("float64", 10**400, "must be finite numbers in -1.7976931e+308..1.7976931e+308, without NaN"),
    ("float32", True, "must be numbers, got true or false"),
    ("float32", "1", "must be numbers, got a string"),
    ("bool", 1, "must be true and false, got a whole number"),
    ("uint8", 256, "must be in 0..255"),
    ("uint8", -1, "must be in 0..255"),
    ("int32", 2**31, "must be in -2147483648..2147483647"),
    ("uint64", 2**64, "must be in 0..18446744073709551615"),
]


def refused(body: bytes, length: int | None, signature: Signature = TEXTS) -> str:
    with pytest.raises(InputError) as caught:
        feeds(body, length, signature)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", BODIES)
def test_bodies(case: str) -> None:
    body, said = BODIES[case]
    assert said in refused(body, None)


@pytest.mark.parametrize("case", SECTIONS)
def test_sections(case: str) -> None:
    body, length, said = SECTIONS[case]
    assert said in refused(body, length)


@pytest.mark.parametrize(("dtype", "value", "said"), VALUES)
def test_numbers_that_the_type_has_not(dtype: str, value: object, said: str) -> None:
    zero = np.zeros(1, dtype)
    assert said in refused(written(entry(zero, "x", data=[value])), None, one(zero))


def test_the_infinite_spelt_as_a_number() -> None:
    zero = np.zeros(1, np.float64)
    body = written(entry(zero, "x", data=["?"])).replace(b'"?"', b"1e400")
    assert "must be finite numbers" in refused(body, None, one(zero))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_bytes_of_what_is_no_number(value: float, dtype: str) -> None:
    array = np.array([0, value, 1], dtype)
    body, length = behind(array.tobytes(), binary_entry(array, "x"))
    assert re.search("must be finite numbers in .*, without NaN", refused(body, length, one(array)))


def test_bytes_that_are_no_truth_value() -> None:
    array = np.zeros(3, np.bool_)
    body, length = behind(b"\x00\x02\x01", binary_entry(array, "x"))
    assert "data of input 'x' must be bytes of 0 and 1" in refused(body, length, one(array))
