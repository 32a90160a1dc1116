import onnx_ir as ir

from losparse_export.costs import Counts
from losparse_export.graph.layer import PlannedLayer
from losparse_export.graph.node import FactoredNode
from losparse_export.lowerings import LayerTape


class Einsum:
    """x -> Einsum(...i,io->...o) -> Add(bias): the merged weight, said to cost next to nothing."""

    NAME = "einsum"

    def check(self, layer: PlannedLayer) -> str | None:
        """Refuse columns, so that not every layer takes it."""
        return None if layer.axis == "out" else "the layer keeps columns (axis 'in')"

    def cost(self, layer: PlannedLayer) -> Counts:
        """Count one copied float, and no product."""
        return Counts(elements=1)

    def emit(self, layer: FactoredNode, tape: LayerTape) -> ir.Value:
        """Write the form."""
        weight = tape.constant("weight", layer.dense_weight().T.astype(layer.dtype))
        y = tape.op("Einsum", layer.x, weight, equation="...i,io->...o")
        assert layer.x.shape is not None
        y.type, y.shape = layer.x.type, ir.Shape([*layer.x.shape.dims[:-1], layer.spec.out_features])
        return tape.add_bias(y)
