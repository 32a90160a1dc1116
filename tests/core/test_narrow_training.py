"""The structure `narrow` in a training: a head goes with its low-rank part, and nothing of it comes back."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerCallback

from losparse import LoSparse, compact_
from losparse.layers.factored import FactoredLinear
from losparse.layers.training import training_layers
from losparse.methods.losparse.algorithm import accumulate_sensitivity, close_window, update_masks
from losparse.methods.losparse.heads import Attention
from losparse.methods.losparse.layer import FactoredLinearTraining
from losparse.models.roles import in_attention, writes_residual

from .conftest import collate, toy_items
from .test_training import StopAt, train

METHOD = LoSparse(keep=0.25, low_rank=0.1, window=2, structure="narrow", multiple=4)
HEAD = 16  # two heads in 32 dimensions


def head_parts(layer: FactoredLinear, name: str) -> tuple[set[int], list[bool]]:
    """Return the heads that a compact layer keeps places of, and whether each head's low-rank part is all zero."""
    kept = set() if layer.kept is None else {int(place) // HEAD for place in layer.kept}
    factor = layer.v.T if writes_residual(name) else layer.u
    return kept, [bool((factor[head * HEAD : (head + 1) * HEAD] == 0).all()) for head in range(2)]


def test_a_head_that_goes_leaves_exact_zeros(tmp_path):
    model, _ = train(tmp_path, METHOD)
    model.eval()
    batch = {key: value for key, value in collate(toy_items(8, seed=5)).items() if key != "labels"}
    before = model(**batch).logits
    assert compact_(model, METHOD).share <= METHOD.keep
    torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=1e-5)
    gone = 0
    for block in range(2):
        layers = {
            n: m for n, m in model.named_modules() if isinstance(m, FactoredLinear) and f"layer.{block}.attention" in n
        }
        found = [head_parts(layer, name) for name, layer in layers.items()]
        assert len(found) == 4 and all(one == found[0] for one in found)
        kept, zero = found[0]
        assert zero == [head not in kept for head in range(2)]
        gone += sum(zero)
    assert gone, "keep 0.25 is too little for four heads"


def test_nothing_of_a_head_comes_back_in_the_last_phase(tmp_path):
    seen: list[tuple[int, bool]] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
            moments = [p for layer in training_layers(model).values() for p in layer.dropped()]
            zero = all(
                bool((value.masked_select(where.expand_as(value)) == 0).all())
                for parameter, where in moments
                for value in (parameter, optimizer.state[parameter]["exp_avg"])
            )
            seen.append((state.global_step, zero))

    model, _ = train(tmp_path, METHOD, callbacks=(Watch(),))
    first = METHOD.schedule(20).total - METHOD.schedule(20).final
    assert any(layer.live is not None and not layer.live.all() for layer in training_layers(model).values())
    # Gradients reach what is dropped: moments are zero at the step that fixes the masks, weights at every one.
    assert dict(seen)[first]
    layers = training_layers(model).values()
    assert all(bool((p.masked_select(where.expand_as(p)) == 0).all()) for one in layers for p, where in one.dropped())


def test_resuming_gives_the_weights_of_not_stopping(tmp_path):
    straight, _ = train(tmp_path / "a", METHOD)
    saves = {"save_strategy": "steps", "save_steps": 9}
    train(tmp_path / "b", METHOD, callbacks=(StopAt(9),), **saves)
    resumed, _ = train(tmp_path / "b", METHOD, resume=str(tmp_path / "b" / "checkpoint-9"), **saves)
    state = straight.state_dict()
    assert any(name.endswith(".live") for name in state) and any(name.endswith(".beside_avg") for name in state)
    for (name, one), (_, other) in zip(state.items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def hand_layers() -> dict[str, FactoredLinearTraining]:
    """Return an attention of two heads of one dimension, rank 1, all weights 1."""
    layers = {
        name: FactoredLinearTraining(2, 2, rank=1, axis="in" if name == "o" else "out", bias=False, by_heads=True)
        for name in "qkvo"
    }
    for layer in layers.values():
        for parameter in layer.parameters():
            parameter.data.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    return layers


@pytest.mark.parametrize(("matters", "kept"), [(0, [True, False]), (1, [False, True])])
def test_the_low_rank_part_counts_for_its_head(matters, kept):
    layers = hand_layers()
    for layer in layers.values():
        layer.sparse.grad.fill_(1.0)  # both heads alike
    layers["o"].v.grad[0, matters] = 1.0
    for layer in layers.values():
        accumulate_sensitivity(layer, layer.sparse.grad)
        close_window(layer, beta=0.5, uncertainty_beta=None)
    assert layers["o"].beside_avg.tolist() == [0.5 * (matters == 0), 0.5 * (matters == 1)]
    # Eight groups of two parameters, four of each head: one head fits.
    update_masks(layers, [Attention(("q", "k"), ("v",), ("o",), 2, 1, 1, 1, 1)], budget=8)
    for name, layer in layers.items():
        assert layer.mask.tolist() == layer.live.tolist() == kept, name
        factor, other = (layer.v.T, layer.u) if name == "o" else (layer.u, layer.v)
        assert (factor[:, 0] != 0).tolist() == kept
        assert bool((other != 0).all())


def test_other_structures_have_no_mask_of_heads():
    for structure in ("rows", "columns", "foldable"):
        layer = LoSparse(low_rank=0.1, structure=structure).start("l.0.attention.self.query", torch.randn(32, 32), None)
        assert layer.live is None and not any(name.startswith("beside") for name in layer.state_dict())
    layer = METHOD.start("layer.0.output.dense", torch.randn(32, 32), None)
    assert layer.live is None and not in_attention("layer.0.output.dense")
