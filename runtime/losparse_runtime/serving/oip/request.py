"""The body of an inference request: JSON, or JSON and behind it the bytes of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json as parse_json

from ...contract.signature import Signature
from ...contract.tensors import Arrays
from ...errors import InputError
from .tensors import from_bytes, from_json, parse_shape, shown

_MICROSECONDS = 1e-6


@dataclass(frozen=True)
class WantedOutput:
    """An output that is asked for.

    Attributes:
        name: of the output.
        binary: as bytes behind the JSON.
    """

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """What a request asks.

    Attributes:
        inputs: arrays by the model's names; those that came as bytes may share their memory.
        outputs: asked for; all of the model, in its order, where the request names none.
        id: comes back with the answer; None where there is none.
        timeout_s: seconds within which the answer is of use; None where the request does not say, or says 0.
        parameters: everything that the request says under this name.
    """

    inputs: Arrays
    outputs: tuple[WantedOutput, ...]
    id: str | None = None
    timeout_s: float | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)


def parse_request(body: bytes, header_length: int | None, signature: Signature) -> InferRequest:
    """Read a request.

    Args:
        body: as it came, inflated.
        header_length: bytes of the JSON at its beginning; None where the body is JSON alone.
        signature: of the model.

    Returns:
        What is asked. Every input is one of the model's, of its type and its number of axes, and filled by its data;
        whether all are there and go with each other, `signature.check` says where the model is run.

    Raises:
        InputError: something is wrong; one line says what. Memory is taken for data that came, never for what a shape
            claims.
    """
    data = _json(body, header_length)
    parameters = _object(data.get("parameters", {}), "parameters")
    if parameters.get("sequence_id"):
        raise InputError("parameter sequence_id is for models that keep a state, which none here does; leave it out")
    name = data.get("id")
    if name is not None and not isinstance(name, str):
        raise InputError(f"id must be a string, got {shown(name)}")
    return InferRequest(
        inputs=_inputs(data, body, header_length, signature),
        outputs=_outputs(data, _flag(parameters, "binary_data_output"), signature),
        id=name,
        timeout_s=_timeout(parameters),
        parameters=parameters,
    )


def _json(body: bytes, header_length: int | None) -> dict[str, Any]:
    if header_length is not None and not 0 < header_length <= len(body):
        raise InputError(
            f"Inference-Header-Content-Length must be in 1..{len(body)}, the bytes of the body, got {header_length}"
        )
    try:
        # Bounds the depth, refuses NaN and text that is no UTF-8, and keeps whole numbers whole.
        data = parse_json(body[:header_length], allow_inf_nan=False)
    except ValueError as error:
        raise InputError(f"the body must be JSON: {error}") from error
    return _object(data, "the body")


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{what} must be a JSON object, got {shown(value)}")
    return value


def _flag(parameters: Mapping[str, object], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InputError(f"parameter {name} must be true or false, got {shown(value)}")
    return value


def _timeout(parameters: Mapping[str, object]) -> float | None:
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**63:
        raise InputError(f"parameter timeout must be a whole number of microseconds >= 0, got {shown(value)}")
    return value * _MICROSECONDS or None


def _named(value: object, kind: str, known: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return the entries of "inputs" or "outputs" by name: each known, each once."""
    if not isinstance(value, list):
        raise InputError(f"{kind}s must be a list of objects, got {shown(value)}")
    found: dict[str, dict[str, Any]] = {}
    for entry in value:
        name = _object(entry, f"each of the {kind}s").get("name")
        if not isinstance(name, str) or name not in known:
            raise InputError(f"{kind} must be one of those the model has ({', '.join(known)}), got {shown(name)}")
        if name in found:
            raise InputError(f"{kind} {name!r} comes twice")
        found[name] = entry
    return found


def _inputs(data: Mapping[str, Any], body: bytes, header_length: int | None, signature: Signature) -> Arrays:
    specs = {spec.name: spec for spec in signature.inputs}
    if "inputs" not in data:
        raise InputError(f"inputs are missing; the model takes {', '.join(specs)}")
    arrays, place = Arrays(), header_length
    for name, entry in _named(data["inputs"], "input", specs).items():
        shape, size = parse_shape(entry, specs[name]), _binary_size(entry, name)
        if size is None:
            arrays[name] = from_json(entry["data"], specs[name], shape)
            continue
        if place is None:
            raise InputError(f"input {name!r} has a binary_data_size; send the header Inference-Header-Content-Length")
        if size > len(body) - place:
            raise InputError(f"input {name!r} has binary_data_size {size}, {len(body) - place} bytes are left")
        arrays[name] = from_bytes(body, place, size, specs[name], shape)
        place += size
    if place is not None and place != len(body):
        raise InputError(f"{len(body) - place} bytes of the body belong to no input; give each its binary_data_size")
    return arrays


def _binary_size(entry: Mapping[str, Any], name: str) -> int | None:
    """Return the bytes that an input has behind the JSON; None where its data is in the JSON."""
    parameters = _object(entry.get("parameters", {}), f"parameters of input {name!r}")
    if "shared_memory_region" in parameters:
        raise InputError(f"input {name!r} is in shared memory, which is not read; send it as data or binary")
    size = parameters.get("binary_data_size")
    if ("data" in entry) == (size is not None):
        raise InputError(f"input {name!r} must have either data or the parameter binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InputError(f"binary_data_size of input {name!r} must be a whole number >= 0, got {shown(size)}")
    return size


def _outputs(data: Mapping[str, Any], binary: bool, signature: Signature) -> tuple[WantedOutput, ...]:
    known = {spec.name: spec for spec in signature.outputs}
    named = _named(data.get("outputs", []), "output", known)
    if not named:
        return tuple(WantedOutput(name, binary) for name in known)
    return tuple(_output(name, entry, binary) for name, entry in named.items())


def _output(name: str, entry: Mapping[str, Any], binary: bool) -> WantedOutput:
    parameters = _object(entry.get("parameters", {}), f"parameters of output {name!r}")
    if "shared_memory_region" in parameters:
        raise InputError(f"output {name!r} is wanted in shared memory, which is not written; leave it out")
    if parameters.get("classification"):
        raise InputError(f"output {name!r} is wanted as classes; ask /v1/classify for these")
    return WantedOutput(name, _flag(parameters, "binary_data") if "binary_data" in parameters else binary)
