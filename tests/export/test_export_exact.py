"""Small constants stay: what onnxscript's optimiser takes for adding 0, or for multiplying by 1."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import onnxscript.optimizer
import pytest

from losparse_export.tracing.exact import exact_constants

NORM = """
<ir_version: 10, opset_import: ["" : 18]>
norm (float[n, 4] x) => (float[n, 4] y)
<float epsilon = {1e-8}, float factor = {1.000001}, float nothing = {0.0}, double wide = {1e-8}>
{
    squares = Mul (x, x)
    mean = ReduceMean (squares)
    VARIANCE
    root = Sqrt (variance)
    ratio = Div (x, root)
    same = Add (ratio, nothing)
    y = Mul (same, factor)
}
"""
ADDED = "variance = Add (mean, epsilon)"
CAST = "cast = Cast <to = 1> (wide) variance = Add (cast, mean)"


@pytest.mark.parametrize("variance", [ADDED, CAST], ids=["constant", "cast-constant"])
def test_an_epsilon_and_a_factor_near_one_survive(variance):
    model = ir.serde.deserialize_model(onnx.parser.parse_model(NORM.replace("VARIANCE", variance)))
    with exact_constants(model):
        onnxscript.optimizer.optimize_ir(model)
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Add") == 1, "adding 0 itself is dropped, as before"
    assert {node.domain for node in model.graph} == {""}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.array([[0, 0, 0, 0], [1, 2, 3, 4]], np.float32)
    (y,) = session.run(None, {"x": x})
    expected = x / np.sqrt((x * x).mean() + np.float32(1e-8)) * np.float32(1.000001)
    np.testing.assert_allclose(y, expected, rtol=3e-7, atol=0)  # three roundings of fp32
    assert not np.array_equal(y, x / np.sqrt((x * x).mean() + np.float32(1e-8))), "the factor shows in fp32"


def test_the_optimiser_alone_drops_them():
    """The reason for all this; when it fails, onnxscript is exact and the module can go."""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(NORM.replace("VARIANCE", ADDED)))
    onnxscript.optimizer.optimize_ir(model)
    assert "Add" not in [node.op_type for node in model.graph]
