"""Whatever is folded, in whatever form, computes the same: random transformer blocks against their dense layers.

Tolerance 2e-5, scaled with outputs above 1. Weights are of magnitude 0.3, inputs of magnitude 1, sums have at most 16
terms, and six layers follow each other: rounding stays below 1e-6 in some thousand runs. The rest is room for pivots,
whose combinations have entries up to 10, and for a LayerNormalization of a few features that are nearly equal. A
feature in another's place is off by 1e-2 and more.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse.layers.factored import FactoredLinear
from losparse_export import LOWERINGS, Call, lower_model
from losparse_export.graph.node import OP_TYPE
from losparse_export.passes import SharePass, fold_model
from losparse_export.target import prepare_model

from .blocks import Blocks, assert_equal_outputs, dense_outputs, every_plan, feeds_for, finish_model, make_dense
from .builders import make_layer

ATOL = 2e-5


class Drawn(Blocks):
    """Writes blocks of drawn sizes."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(opset=draw(st.sampled_from([23, 23, 18])), seed=draw(st.integers(0, 2**16)))
        self.draw = draw
        torch.manual_seed(draw(st.integers(0, 2**16)))

    def kept(self, groups: int, blocks: int) -> list[int]:
        """Draw what is kept of a side: nothing, all, equally many in every head, or anything."""
        kind = self.draw(st.sampled_from(["none", "all", "even", "even", "any"]))
        width = groups // blocks
        if kind in ("none", "all"):
            return list(range(groups)) if kind == "all" else []
        if kind == "any":
            return sorted(self.draw(st.sets(st.integers(0, groups - 1))))
        count = self.draw(st.integers(0, width))
        parts = [self.draw(st.permutations(range(width)))[:count] for _ in range(blocks)]
        return sorted(block * width + place for block, part in enumerate(parts) for place in part)

    def any_layer(self, x: ir.Value, out: int, name: str, side: str, kept: list[int]) -> ir.Value:
        """Add a layer, usually one that keeps `kept` at the side that a fold could reorder."""
        in_ = int(x.shape[-1])
        bias, kind = self.draw(st.booleans()), self.draw(st.sampled_from(["factored"] * 4 + ["other side", "dense"]))
        if kind == "dense":
            return self.layer(x, make_dense(out, in_, bias=bias), name)
        axis = side if kind == "factored" else {"out": "in", "in": "out"}[side]
        if kind == "other side":
            kept = self.kept(out if axis == "out" else in_, 1)
        rank = self.draw(st.sampled_from([0, 1, 2, min(out, in_)]))
        return self.layer(x, make_layer(out, in_, rank=min(rank, out, in_), kept=kept, axis=axis, bias=bias), name)

    def pair(self, groups: int, blocks: int = 1, count: int = 2) -> list[list[int]]:
        """Draw what partners keep: the same, or each its own."""
        first = self.kept(groups, blocks)
        same = self.draw(st.sampled_from([True, True, False]))
        return [first] + [first if same else self.kept(groups, blocks) for _ in range(count - 1)]

    def attend(self, x: ir.Value) -> ir.Value:
        heads, width, value_width = (self.draw(st.integers(1, most)) for most in (3, 8, 8))
        query, key = self.pair(heads * width, heads)
        value, output = self.pair(heads * value_width, heads)
        kept = {"query": (width, query), "key": (width, key), "value": (value_width, value)}
        parts = [self.any_layer(x, heads * each, name, "out", which) for name, (each, which) in kept.items()]
        if value_width == width and self.draw(st.booleans()):
            parts[self.draw(st.integers(0, 1))] = parts[2]  # a query or a key that is the value, too
        scale = self.draw(st.sampled_from([{}, {"scale": 0.8}]))
        return self.any_layer(self.attention(*parts, heads, **scale), int(x.shape[-1]), "output", "in", output)

    def feed(self, x: ir.Value) -> ir.Value:
        inner = self.draw(st.integers(1, 16))
        up_kept, gate_kept, down_kept = self.pair(inner, count=3)
        kind = self.draw(st.sampled_from(["gelu", "relu", "gated", "scaled", "twice"]))
        y = self.any_layer(x, inner, "up", "out", up_kept)
        if kind == "gated":
            gate = self.any_layer(x, inner, "gate", "out", gate_kept)
            y = self.op("Mul", self.gelu(gate), y)
        elif kind == "scaled":  # a vector of one number a feature between the layers
            y = self.op("Mul", self.constant("scale.weight", self.random.normal(size=inner)), self.op("Tanh", y))
        elif kind == "twice" and y.producer().op_type == OP_TYPE:
            other = self.call_again(self.op("Tanh", x), y)
            y = self.op("Add", self.gelu(y), other if self.draw(st.booleans()) else self.op("Softmax", other, axis=-1))
        else:
            y = self.gelu(y) if kind == "gelu" else self.op("Relu", y)
        return self.any_layer(y, int(x.shape[-1]), "down", "in", down_kept)

    def direct(self, x: ir.Value) -> ir.Value:
        """Add a layer alone: with its input added, it reads the stream that it writes to."""
        width = int(x.shape[-1])
        return self.any_layer(x, width, f"direct{len(self.nodes)}", "out", self.kept(width, 1))

    def gelu(self, x: ir.Value) -> Any:
        return self.op("Gelu", x) if self.opset >= 20 else self.erf_gelu(x)


@st.composite
def blocks(draw: st.DrawFn) -> ir.Model:
    """Draw normalised embeddings, then attention, a feed-forward part or a layer alone, with its input added or not.

    Behind a product they are on two axes, as everything that follows, so a bias can move into the first normalisation.
    """
    b = Drawn(draw)
    x = b.layer(b.tokens(3), make_dense(draw(st.integers(4, 10)), 3), "project")
    x = b.norm(x, "norm0")
    parts = draw(
        st.sampled_from([("feed",), ("attend",), ("attend", "feed"), ("direct", "feed"), ("direct", "direct")])
    )
    if b.opset < 23:  # attention is then no single node
        parts = tuple(part for part in parts if part != "attend")
    for number, part in enumerate(parts):
        y = getattr(b, part)(x)
        kind = draw(st.sampled_from(["alone", "added", "normalised", "normalised"]))
        y = y if kind == "alone" else b.op("Add", y, x)
        x = b.norm(y, f"norm{number + 1}") if kind == "normalised" else y
    return b.model(x)


@settings(max_examples=60, deadline=None)
@given(blocks(), st.permutations([form.NAME for form in LOWERINGS]), st.integers(0, 2**16))
def test_every_plan_of_a_folded_block_computes_its_layers(model, preferred, seed):
    feeds = feeds_for(model, seed)
    expected = dense_outputs(model, feeds)
    fold_model(prepare_model(model))
    for tokens, shared in ((4, True), (4096, False)):
        for plan in every_plan(model, tokens, preferred):
            with mock.patch.object(SharePass, "_pays", lambda *_, shared=shared: shared):
                finished = finish_model(lower_model(model.clone(), plan), Call(length=tokens))
            assert_equal_outputs(finished, feeds, expected, ATOL)


def attention_of(query: FactoredLinear, output: FactoredLinear, **attributes: Any) -> ir.Model:
    """Two heads of 5, with keys and values of low rank alone."""
    b = Blocks()
    x = b.tokens(6)
    key, value = (b.layer(x, make_layer(10, 6, rank=1, kept=0), name) for name in ("key", "value"))
    return b.model(b.layer(b.attention(b.layer(x, query, "query"), key, value, 2, **attributes), output, "output"))


def assert_every_plan(model: ir.Model) -> None:
    feeds = feeds_for(model)
    expected = dense_outputs(model, feeds)
    fold_model(prepare_model(model))
    for plan in every_plan(model, 4096):
        finished = finish_model(lower_model(model.clone(), plan), Call(length=4096))
        assert_equal_outputs(finished, feeds, expected, ATOL)


@pytest.mark.parametrize(
    ("query", "output"),
    [
        ((10, 6, 1, 0, "out"), (6, 10, 2, 3, "in")),  # all of low rank: heads are narrowed
        ((10, 6, 0, 3, "out"), (6, 10, 2, 3, "in")),  # values alone are narrowed
        ((10, 6, 0, 1, "in"), (6, 10, 2, 3, "in")),  # a query of one picked input feature
        ((10, 6, 1, 1, "in"), (6, 10, 2, 3, "in")),
        ((10, 6, 1, 0, "out"), (6, 10, 0, 0, "in")),  # nothing is kept behind attention: only its shape is read
    ],
)
def test_attention_before_and_behind_other_forms(query, output):
    """Attention is narrowed by what stands around it, whatever form that has."""
    torch.manual_seed(0)
    layers = [make_layer(out, in_, rank=rank, kept=kept, axis=axis) for out, in_, rank, kept, axis in (query, output)]
    assert_every_plan(attention_of(*layers))


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"scale": 2.0}, {"softcap": 0.5}])
def test_attention_with_other_attributes(attributes):
    """A soft cap bends scores before the softmax, which then sees what a key's bias adds to all scores of a query."""
    torch.manual_seed(0)
    query, output = make_layer(10, 6, rank=1, kept=0), make_layer(6, 10, rank=2, kept=3, axis="in")
    assert_every_plan(attention_of(query, output, **attributes))
