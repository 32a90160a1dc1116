"""What any signature makes up passes its own check, and what is wrong with feeds is refused by its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losparse_runtime import InputError
from losparse_runtime.contract.feeds import Draw
from losparse_runtime.contract.fields import Fields
from losparse_runtime.contract.signature import Signature, parse_signature
from losparse_runtime.contract.tensors import Role, State, TensorSpec, Vocabulary


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Any graph of tokens: with and without a past, and with inputs whose names say nothing."""
    whole = draw(st.sampled_from(["int64", "int32"]))
    with_past = draw(st.booleans())
    token: tuple[int | str, ...] = ("batch", "sequence")
    roles: dict[Role, TensorSpec] = {
        "mask": TensorSpec("attention_mask", whole, ("batch", "past+sequence" if with_past else "sequence")),
        "types": TensorSpec("token_type_ids", whole, token),
        "positions": TensorSpec("places", whole, token, "positions"),
        "other": TensorSpec("extra", "float32", ("batch", 2)),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(roles)), unique=True))
    tokens = draw(st.sampled_from([TensorSpec("input_ids", whole, token), TensorSpec("x", whole, token, "tokens")]))
    pasts = [
        TensorSpec("past.0", "float32", ("batch", "past", 3)),
        TensorSpec("past.1", "float16", ("batch", 2, "past")),
    ]
    pasts = pasts[: draw(st.integers(1, 2))] if with_past else []
    presents = [
        TensorSpec(spec.name.replace("past", "present"), spec.dtype, tuple(_grown(axis) for axis in spec.shape))
        for spec in pasts
    ]
    size = draw(st.integers(3, 40))
    special = st.none() | st.integers(0, size - 1)
    return Signature(
        inputs=(tokens, *(roles[role] for role in chosen), *pasts),
        outputs=(TensorSpec("logits", "float32", ("batch", 3)), *presents),
        states=tuple(State(one.name, other.name) for one, other in zip(pasts, presents, strict=True)),
        vocabulary=Vocabulary(size, draw(st.none() | st.integers(1, 3)), draw(special), draw(special)),
        longest=draw(st.integers(16, 20)),
    )


def _grown(axis: int | str) -> int | str:
    return "past+sequence" if axis == "past" else axis


draws = st.builds(
    Draw,
    st.integers(1, 4),
    st.integers(1, 8),
    past=st.integers(0, 8),
    seed=st.integers(0, 2**32),
    padding=st.sampled_from(["none", "drawn", "half"]),
    side=st.sampled_from(["left", "right"]),
    pairs=st.booleans(),
    spare_filler=st.booleans(),
)


def own(signature: Signature, draw: Draw) -> Draw:
    """A graph without a past has no tokens of earlier runs."""
    return draw if signature.states else replace(draw, past=0)


@settings(deadline=None, max_examples=150)
@given(signatures())
def test_what_is_written_is_what_is_read(signature):
    fields = Fields(Path("losparse.json"), json.loads(json.dumps(signature.to_json())))
    assert parse_signature(fields).within(signature.vocabulary, signature.longest) == signature


@settings(deadline=None, max_examples=300)
@given(signatures(), draws)
def test_what_is_made_up_passes_its_own_check(signature, draw):
    draw = own(signature, draw)
    for feeds in (
        signature.random_feeds(draw),
        signature.counted_feeds(batch=draw.batch, length=draw.length, past=draw.past),
    ):
        checked = signature.check(feeds)
        assert list(checked) == [spec.name for spec in signature.inputs]
        assert all(checked[name] is array for name, array in feeds.items())
        assert all(feeds[spec.name].dtype == spec.dtype for spec in signature.inputs)


@settings(deadline=None, max_examples=200)
@given(signatures(), draws)
def test_rows_hold_no_padding_but_where_it_belongs_and_one_end(signature, draw):
    draw = own(signature, draw)
    feeds = signature.random_feeds(draw)
    ids, padding, end = signature.tokens_of(feeds), signature.vocabulary.padding, signature.vocabulary.end
    real = signature.mask_of(feeds).astype(bool)
    if draw.padding == "none":
        assert real.all()
    if signature.has("mask") and end != padding:
        assert padding is None or (ids == padding).sum() == (~real).sum()
        assert end is None or ((ids == end) & real).sum(axis=1).tolist() == [1] * draw.batch
    again = signature.random_feeds(draw)
    assert all(np.array_equal(array, again[name]) for name, array in feeds.items())


MUTATIONS = ("dropped", "renamed", "dtype", "rank", "too large", "negative", "empty", "longer batch", "list")


def mutate(kind: str, spec: TensorSpec, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """Return feeds with one mistake in one input; None where it would be none."""
    array, changed = feeds[spec.name], dict(feeds)
    if kind in ("dropped", "renamed"):
        if spec.role not in ("tokens", "other") and kind == "dropped":
            return None  # there are defaults
        if spec.name.startswith("past") and sum(name.startswith("past") for name in feeds) == 1:
            return None
        del changed[spec.name]
        return changed if kind == "dropped" else {f"{spec.name}_": array, **changed}
    if kind in ("too large", "negative") and spec.role not in ("tokens", "types", "mask", "positions"):
        return None
    made: dict[str, Any] = {
        "dtype": lambda: array.astype(np.float64),
        "rank": lambda: array[None],
        "too large": lambda: np.where(np.arange(array.size).reshape(array.shape) == 0, 1000, array).astype(array.dtype),
        "negative": lambda: np.where(np.arange(array.size).reshape(array.shape) == 0, -1, array).astype(array.dtype),
        "empty": lambda: array[:0],
        "longer batch": lambda: np.concatenate([array, array[:1]]),
        "list": array.tolist,
    }
    if kind == "longer batch" and len(feeds) == 1:
        return None
    changed[spec.name] = made[kind]()
    return changed


@settings(deadline=None, max_examples=400)
@given(signatures(), draws, st.sampled_from(MUTATIONS), st.data())
def test_what_is_wrong_is_refused_by_its_name(signature, draw, kind, data):
    spec = data.draw(st.sampled_from(signature.inputs))
    if kind in ("too large", "negative") and spec.role == "types" and signature.vocabulary.types is None:
        return
    wrong = mutate(kind, spec, signature.random_feeds(own(signature, draw)))
    if wrong is None:
        return
    with pytest.raises(InputError) as caught:
        signature.check(wrong)
    message = str(caught.value)
    assert "\n" not in message and spec.name in message.partition(";")[0]
