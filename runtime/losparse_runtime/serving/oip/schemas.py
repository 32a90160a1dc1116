"""The routes in the words of OpenAPI: what is read as bytes shows on the page of the server all the same."""

from __future__ import annotations

from typing import Any

from ...contract.tensors import TOKENS
from .datatypes import DATATYPES

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Says how many bytes of a body are JSON, where the bytes of tensors follow."""

Schema = dict[str, Any]

_SIZES: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}
_DATATYPE: Schema = {"type": "string", "enum": list(DATATYPES.values())}
_DATA: Schema = {
    "type": "array",
    "items": {},
    "description": "numbers, the last axis first; one list, or lists in lists",
}
_BINARY_SIZE: Schema = {"type": "integer", "minimum": 0, "description": "bytes of this tensor behind the JSON"}
_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": _SIZES,
        "datatype": _DATATYPE,
        "data": _DATA,
        "parameters": {"type": "object", "properties": {"binary_data_size": _BINARY_SIZE}},
    },
}
_WANTED: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
    },
}
_REQUEST: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string", "description": "comes back with the answer"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {"type": "array", "items": _WANTED, "description": "all of the model where none is named"},
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_output": {"type": "boolean", "description": "all outputs as bytes behind the JSON"},
                "timeout": {"type": "integer", "minimum": 0, "description": "microseconds for the answer"},
            },
        },
    },
}
_RESPONSE: Schema = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_SPEC: Schema = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": _DATATYPE,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}, "description": "-1 for a free axis"},
    },
}
_MODEL: Schema = {
    "type": "object",
    "required": ["name", "versions", "platform", "inputs", "outputs"],
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": _SPEC},
        "outputs": {"type": "array", "items": _SPEC},
    },
}
_SERVER: Schema = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "extensions": {"type": "array", "items": {"type": "string"}},
    },
}
_INDEX: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "version", "state", "reason"],
        "properties": {key: {"type": "string"} for key in ("name", "version", "state", "reason")},
    },
}
_BYTES: Schema = {"type": "string", "format": "binary"}

# Ids that every vocabulary has; whoever sends texts uses the routes of tasks.
_EXAMPLE = {"inputs": [{"name": TOKENS, "shape": [1, 4], "datatype": "INT64", "data": [[1, 2, 3, 4]]}]}


def _json(schema: Schema, **more: object) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **more}}


def _answer(schema: Schema) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "the answer", "content": _json(schema)}}


def flag(*names: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that says whether something is so, by the names of its fields."""
    properties: Schema = {name: {"type": "string" if name == "name" else "boolean"} for name in names}
    schema: Schema = {"type": "object", "required": list(names), "properties": properties}
    no = {"description": "it is not, or not now", "content": _json(schema)}
    return {200: {"description": "it is", "content": _json(schema)}, 503: no}


SERVER = _answer(_SERVER)
MODEL = _answer(_MODEL)
INDEX = _answer(_INDEX)
INFER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": f"the outputs; where one is wanted as bytes, the header {HEADER_LENGTH} says where they begin",
        "content": {**_json(_RESPONSE), "application/octet-stream": {"schema": _BYTES}},
    },
}


def model_path(first: str, *, versions: bool) -> list[dict[str, Any]]:
    """Return the parameters of a path to a model.

    Args:
        first: name of a model, as an example.
        versions: whether the path names a version too.
    """
    names = {"name": ("of the model", {"example": first})}
    if versions:
        names["version"] = ("first digits of its fingerprint, or the name of its variant", {})
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": text, **more}
        for name, (text, more) in names.items()
    ]


def infer_extra(first: str, *, versions: bool) -> dict[str, Any]:
    """Return what the page says of a request for inference; see `model_path`."""
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "schema": {"type": "integer", "minimum": 1},
        "description": "bytes of the JSON at the beginning of the body, where the bytes of tensors follow",
    }
    content = {**_json(_REQUEST, example=_EXAMPLE), "application/octet-stream": {"schema": _BYTES}}
    return {
        "parameters": [*model_path(first, versions=versions), length],
        "requestBody": {"required": True, "content": content},
    }
