"""The operator sets that graphs are written in."""

from __future__ import annotations

from losparse.errors import LosparseError

# The file format that goes with each operator set: what onnxruntime of its time reads. Never the newest by default:
# onnx writes newer formats than onnxruntime opens.
IR_VERSIONS = {18: 10, 23: 11}

OLDEST, NEWEST = min(IR_VERSIONS), max(IR_VERSIONS)


def check_opset(opset: int) -> None:
    """Refuse operator sets that are not tested.

    Raises:
        LosparseError: it is another one.
    """
    if opset not in IR_VERSIONS:
        raise LosparseError(f"opset must be one of {', '.join(map(str, IR_VERSIONS))}, got {opset}")
