"""Attention as a place where lists of features meet: queries and keys, values and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .constants import add_constant, new_node
from .node import Mask

_MASK, _PAST = 3, 4


@dataclass(frozen=True)
class Site:
    """One Attention with heads side by side; as many for keys as for queries.

    Attributes:
        node: the Attention of opset 23.
    """

    node: ir.Node

    @property
    def query(self) -> ir.Value:
        """(batch, sequence, heads * width)."""
        return self._input(0)

    @property
    def key(self) -> ir.Value:
        """(batch, sequence, heads * width)."""
        return self._input(1)

    @property
    def value(self) -> ir.Value:
        """(batch, sequence, heads * width of a value)."""
        return self._input(2)

    @property
    def output(self) -> ir.Value:
        """(batch, sequence, heads * width of a value)."""
        return self.node.outputs[0]

    @property
    def capped(self) -> bool:
        """Whether a soft cap bends every score, so that softmax sees what depends on the query alone."""
        cap = self.node.attributes.get("softcap")
        return cap is not None and cap.as_float() != 0.0

    @property
    def fixed(self) -> str | None:
        """Why its heads stay as many and as wide as they are, or None."""
        if any(value is not None for value in self.node.inputs[_PAST:]):
            return "attention has a past"
        if any(list(output.uses()) or output.is_graph_output() for output in self.node.outputs[1:]):
            return "what attention computed of keys and values is read"
        mask = self._mask
        if mask is not None and (mask.shape is None or (len(mask.shape) >= 3 and not isinstance(mask.shape[-3], int))):
            return "the axes of attention's mask are not known"
        return None

    def resize(self, graph: ir.Graph, live: Mask, width: int) -> None:
        """Say that heads are gone, and that scores are scaled as before.

        Args:
            graph: it is in.
            live: which heads are left; (heads,).
            width: of a head's queries and keys as they were: the default scale is taken from it.
        """
        if "scale" not in self.node.attributes:
            self.node.attributes["scale"] = ir.AttrFloat32("scale", width**-0.5)
        if live.all():
            return
        for name in ("q_num_heads", "kv_num_heads"):
            self.node.attributes[name] = ir.AttrInt64(name, int(live.sum()))
        mask = self._mask
        if mask is not None and mask.shape is not None and len(mask.shape) >= 3 and mask.shape[-3] != 1:
            self.node.replace_input_with(_MASK, self._mask_of(graph, mask, live))

    def _mask_of(self, graph: ir.Graph, mask: ir.Value, live: Mask) -> ir.Value:
        """Take the rows of some heads of a mask that has one for each."""
        assert mask.shape is not None
        axis = len(mask.shape) - 3
        heads = np.flatnonzero(live)
        places = add_constant(graph, "heads_left", heads)
        picked = new_node(graph, self.node, "Gather", [mask, places], like=mask, scope=self.node, axis=axis)
        picked.shape = ir.Shape([*mask.shape.dims[:axis], len(heads), *mask.shape.dims[axis + 1 :]])
        return picked

    @property
    def _mask(self) -> ir.Value | None:
        return self.node.inputs[_MASK] if len(self.node.inputs) > _MASK else None

    def _input(self, place: int) -> ir.Value:
        value = self.node.inputs[place]
        assert value is not None, "attention always has these inputs"
        return value
