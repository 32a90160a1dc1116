"""The bytes of an ONNX model of one node, written without the onnx package: y = x + x, four float32.

References:
    onnx.proto3, for the numbers of the fields; the wire format of protocol buffers.
"""

from __future__ import annotations

_VARINT, _BYTES = 0, 2
_FLOAT = 1
_IR_VERSION, _OPSET = 8, 13
WIDTH = 4
"""Numbers in the one input and the one output."""


def one_node_model() -> bytes:
    """Return the model; its input is "x", its output "y"."""
    node = _text(1, "x") + _text(1, "x") + _text(2, "y") + _text(4, "Add")
    graph = _message(1, node) + _text(2, "one_node") + _message(11, _value("x")) + _message(12, _value("y"))
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, opset)


def _value(name: str) -> bytes:
    """A ValueInfoProto: float32 (WIDTH,)."""
    shape = _message(1, _number(1, WIDTH))
    tensor = _number(1, _FLOAT) + _message(2, shape)
    return _text(1, name) + _message(2, _message(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _message(field, value.encode())


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
