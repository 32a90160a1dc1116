"""The one description of a factored layer: what files, nodes and counts make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from losparse.errors import LosparseError
from losparse.layers.spec import LayerSpec

ROWS = LayerSpec(8, 6, 2, 3)
COLUMNS = LayerSpec(8, 6, 2, 3, axis="in", bias=False, pivot_side="in")
MEMBER = LayerSpec(4, 6, 5, 1, shares_v=True, v_of="block.query")


@pytest.mark.parametrize("spec", [ROWS, COLUMNS, MEMBER])
def test_an_entry_is_read_as_it_was_written(spec: LayerSpec) -> None:
    assert LayerSpec.from_entry("a", json.loads(json.dumps(spec.to_entry()))) == spec


def test_entries_stay_as_earlier_versions_wrote_them() -> None:
    assert json.dumps(ROWS.to_entry()) == (
        '{"in": 6, "out": 8, "rank": 2, "kept": 3, "axis": "out", "bias": true, "pivots": null}'
    )
    oldest = {"in": 6, "out": 8, "rank": 2, "kept": 3, "axis": "out", "bias": True, "trainer": "losparse"}
    assert LayerSpec.from_entry("a", oldest) == ROWS


@pytest.mark.parametrize("spec", [ROWS, COLUMNS])
def test_a_node_is_read_as_it_was_written(spec: LayerSpec) -> None:
    assert LayerSpec.from_attributes({**spec.to_attributes(), "order": "{}"}, bias=spec.bias) == spec


@pytest.mark.parametrize("spec", [ROWS, COLUMNS, MEMBER])
def test_a_plan_is_read_as_it_was_written(spec: LayerSpec) -> None:
    plan = json.loads(json.dumps(spec.to_plan()))
    assert LayerSpec.from_plan(plan) == replace(spec, bias=False, v_of=None)
    assert list(plan) == ["shape", "rank", "kept", "axis", "pivots", "shared"]
    first = {key: plan[key] for key in ("shape", "rank", "kept", "axis")}  # as the first writers had it
    assert spec.shares_v or LayerSpec.from_plan(first).words == spec.words


def test_a_node_does_not_say_whose_factor_it_shares() -> None:
    found = LayerSpec.from_attributes(MEMBER.to_attributes(), bias=True)
    assert (found.shares_v, found.v_of) == (True, None)


def test_counts_and_shapes_by_hand() -> None:
    assert ROWS.shapes() == {"u": (8, 2), "v": (2, 6), "sparse": (3, 6), "kept": (3,), "bias": (8,)}
    assert (ROWS.parameters, ROWS.dense_parameters) == (2 * 14 + 3 * 6, 48)
    assert COLUMNS.shapes() == {"u": (8, 2), "v": (2, 4), "sparse": (8, 3), "kept": (3,), "pivots": (2,)}
    assert COLUMNS.parameters == 2 * 12 + 8 * 3  # 4 fewer than plain factors
    assert MEMBER.parameters == 4 * 5 + 1 * 6  # its v is the owner's
    assert ROWS.words == "8x6, rank 2, kept 3, axis 'out'"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 7}, "rank must be in 0..6 for a 8x6 layer, got 7"),
        ({"kept": 9}, "kept must be in 0..8 for a 8x6 layer, got 9"),
        ({"axis": "in", "kept": 7}, "kept must be in 0..6 for a 8x6 layer, got 7"),
        ({"axis": "rows"}, "axis must be 'out' (rows) or 'in' (columns), got 'rows'"),
        ({"pivot_side": "rows"}, "pivot_side must be 'out' (outputs), 'in' (inputs) or None, got 'rows'"),
        ({"in_features": 0}, "a linear layer needs at least one input and one output, got 8x0"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(LosparseError) as caught:
        LayerSpec(**{"out_features": 8, "in_features": 6, "rank": 0, "kept": 0} | values)
    assert str(caught.value) == message


def test_reading_a_spec_loads_no_torch() -> None:
    code = "import sys, losparse.layers.spec; sys.exit('torch' in sys.modules or 'onnx_ir' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plan_that_does_not_say_shared_may_have_a_wider_rank_than_its_layer() -> None:
    """The right factor is another layer's, which may be wider; the first writers did not say so."""
    wide = {"shape": [4, 32], "rank": 8, "kept": 1, "axis": "out"}
    assert LayerSpec.from_plan(wide).shares_v and not LayerSpec.from_plan({**wide, "rank": 4}).shares_v
    for entry in ({**wide, "shared": False}, {**wide, "rank": 33}):
        with pytest.raises(LosparseError, match=r"rank must be in 0\.\."):
            LayerSpec.from_plan(entry)


@pytest.mark.parametrize("field", ["out_features", "rank", "kept"])
def test_numbers_of_many_digits_are_not_written_out(field: str) -> None:
    with pytest.raises(LosparseError) as caught:
        LayerSpec(**{"out_features": 4, "in_features": 4, "rank": 5, "kept": 5, field: 10**400})
    assert len(str(caught.value)) < 300
