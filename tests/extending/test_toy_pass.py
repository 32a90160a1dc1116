"""A graph pass is added by one line in the `finish` of a target: no other file changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from losparse_export import CPU
from losparse_export.graph.constants import add_constant, new_node, replace_value


class PlainGeluPass(ir.passes.InPlacePass):
    """Writes Gelu(x) as x * (erf(x / sqrt 2) + 1) / 2, for a machine that has no such node."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on the main graph."""
        graph, gelus = model.graph, [node for node in model.graph if node.op_type == "Gelu"]
        root, one, half = (
            add_constant(graph, f"gelu_{name}", np.array(number, np.float32))
            for name, number in (("root", 2**0.5), ("one", 1.0), ("half", 0.5))
        )
        for node in gelus:
            x, old = node.inputs[0], node.outputs[0]
            y = x
            for kind, other in (("Div", root), ("Erf", None), ("Add", one), ("Mul", x), ("Mul", half)):
                y = new_node(graph, node, kind, [y, other] if other is not None else [y], like=old, scope=node)
            assert y is not None
            replace_value(old, y)
        return ir.passes.PassResult(model, bool(gelus))


def test_a_toy_pass_runs_where_its_line_stands(export_bert, tmp_path):
    target = replace(CPU, finish=(lambda _: PlainGeluPass(), *CPU.finish))
    kinds = {}
    for name, each in (("with", target), ("without", CPU)):
        report = export_bert(tmp_path / name, target=each)  # which compares with PyTorch
        assert report.parity.max_abs <= report.parity.tolerance
        kinds[name] = Counter(node.op_type for node in ir.load(report.folder / "model.onnx").graph)
    assert kinds["without"]["Gelu"] == kinds["with"]["Erf"] == 2 and not kinds["with"]["Gelu"]
