"""LPAF in a real Trainer: its three stages, resuming in each of them, two processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from losparse import LPAF, LoSparse, LPAFCallback, compact_, compress_
from losparse.errors import LosparseError
from losparse.layers.training import training_layers
from losparse.methods.lpaf.algorithm import draw_high_rank, row_weights, sparsity_aware_svd
from losparse.methods.lpaf.layer import MixedRankLinear
from losparse.methods.trainer import whole_gradients

from .conftest import build_bert, collate, run_two_processes, toy_items
from .test_training import StopAt, train

METHOD = LPAF(keep=0.3, window=2)  # of 20 steps: 1 dense, 2..8 ramp, 9 and 10 settled, 11..16 mixed, 17..20 alone
BOUNDARY, MIXED = 10, 16


class Watch(TrainerCallback):
    """Records every layer after every step, and adds up scores by itself."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, dict[str, Any]]] = {}
        self.scores: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step < 8:
            for name, layer in training_layers(model).items():
                self.scores[name] = self.scores.get(name, 0) + (layer.sparse.detach() * layer.sparse.grad).abs()

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.steps[state.global_step] = {
            name: {
                **{key: value.clone() for key, value in layer.state_dict().items()},
                "moments": [key for key in ("u", "v", "sparse") if getattr(layer, key) in optimizer.state],
            }
            for name, layer in training_layers(model).items()
        }


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> Watch:
    watch = Watch()
    # Weight decay moves every parameter that has a gradient, be it zero
    train(tmp_path_factory.mktemp("watch"), METHOD, callbacks=(watch,), weight_decay=0.1)
    return watch


def layers_at(watch: Watch, *steps: int):
    return [(name, *[watch.steps[step][name] for step in steps]) for name in watch.steps[steps[0]]]


def test_stage_1_adds_up_scores_over_the_steps(watch):
    for name, layer in layers_at(watch, BOUNDARY):
        torch.testing.assert_close(layer["score"], watch.scores[name], rtol=0, atol=0)
        assert layer["score"].abs().max() > 0


def test_stage_1_prunes_by_the_cubic_schedule_the_lowest_first(watch):
    schedule = METHOD.schedule(20).pruning
    for step in range(1, BOUNDARY + 1):
        masked = step - step % 2 if step < 8 else 8  # every second step of the ramp, and where it ends
        share = schedule.kept_share(masked, 0.3) if masked else 1.0
        for _, layer in layers_at(watch, step):
            assert layer["mask"].sum() == round(share * layer["mask"].numel())
            assert (layer["sparse"][~layer["mask"]] == 0).all()
    for _, before, after in layers_at(watch, 4, 6):
        dropped = before["mask"] & ~after["mask"]
        assert dropped.any() and not (after["mask"] & ~before["mask"]).any()
        assert after["score"][dropped].max() <= after["score"][after["mask"]].min()


def test_stage_1_leaves_the_factors_alone(watch):
    for step in range(1, BOUNDARY):
        for _, layer in layers_at(watch, step):
            assert not layer["u"].any() and not layer["v"].any()
            assert layer["moments"] == ["sparse"]
            assert layer["high_rank"] and not layer["factored"]


def test_stage_2_factors_the_pruned_matrix_and_forgets_moments(watch):
    for _, layer in layers_at(watch, BOUNDARY):
        u, v = sparsity_aware_svd(layer["sparse"], row_weights(layer["score"], layer["mask"]), layer["u"].shape[1])
        assert torch.equal(layer["u"], u) and torch.equal(layer["v"], v)
        assert layer["factored"] and layer["moments"] == []


def test_stage_3_trains_what_was_drawn_and_never_the_pruned_matrix(watch):
    names = list(watch.steps[1])
    taken = 0
    for step in range(BOUNDARY + 1, 21):
        probability = METHOD.schedule(20).high_rank_probability(step)
        drawn = draw_high_rank(probability, 12, seed=0, step=step)
        for name, high_rank in zip(names, drawn, strict=True):
            before, after = watch.steps[step - 1][name], watch.steps[step][name]
            assert bool(after["high_rank"]) == high_rank
            assert torch.equal(before["sparse"], after["sparse"])
            assert torch.equal(before["u"], after["u"]) == torch.equal(before["v"], after["v"]) == high_rank
            assert "sparse" not in after["moments"]
        taken += sum(drawn)
        assert step <= MIXED or not any(drawn)
    assert 0 < taken < 12 * 6 * 0.5


def test_the_end_meets_the_budget_and_compacts_exactly(tmp_path):
    model, _ = train(tmp_path, METHOD)
    model.eval()
    batch = {key: value for key, value in collate(toy_items(8, seed=5)).items() if key != "labels"}
    before = model(**batch).logits
    report = compact_(model, METHOD)
    # 8 layers of rank 5 and 4 of rank 6, stored by pivots, of 16,384 parameters
    assert report.parameters == 8 * 5 * (64 - 5) + 4 * 6 * (96 - 6)
    assert report.share <= METHOD.keep
    assert {(layer.spec.rank, layer.spec.kept) for layer in report.layers} == {(5, 0), (6, 0)}
    assert {layer.spec.pivot_side for layer in report.layers} == {"out", "in"}
    torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=1e-5)  # fp32, order of summation


def test_one_rank_everywhere_may_need_more_than_keep(tmp_path):
    method = LPAF(keep=0.3, uniform_rank=7, window=2)
    model, _ = train(tmp_path, method, steps=8)
    report = compact_(model, method)
    assert {layer.spec.rank for layer in report.layers} == {7}
    assert report.share > 0.3, "the report says what it is"


@pytest.mark.parametrize("step", [5, 9, BOUNDARY, 13, 18], ids=["ramp", "settled", "boundary", "mixed", "alone"])
def test_resuming_gives_the_weights_of_not_stopping(tmp_path, step):
    straight, _ = train(tmp_path / "a", METHOD)
    saving = {"save_strategy": "steps", "save_steps": step}
    train(tmp_path / "b", METHOD, callbacks=(StopAt(step),), **saving)
    resumed, _ = train(tmp_path / "b", METHOD, resume=str(tmp_path / "b" / f"checkpoint-{step}"), **saving)
    for (name, one), (_, other) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_resuming_with_other_stages_is_refused(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 12}
    train(tmp_path, METHOD, callbacks=(StopAt(12),), **saving)
    with pytest.raises(LosparseError, match="is factored at step 12, which happens at step 20 of 40"):
        train(tmp_path, METHOD, steps=40, resume=str(tmp_path / "checkpoint-12"))


def test_all_batches_of_a_step_use_the_same_matrix(tmp_path):
    seen: dict[int, list[list[bool]]] = {}

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.register_forward_pre_hook(
                lambda module, inputs: seen.setdefault(state.global_step + 1, []).append(
                    [bool(layer.high_rank) for layer in training_layers(module).values()]
                )
            )

    train(tmp_path, METHOD, callbacks=(Spy(),), per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert [len(batches) for batches in seen.values()] == [2] * 20
    assert all(first == second for first, second in seen.values())
    assert seen[BOUNDARY][0] == [True] * 12
    assert len({tuple(batches[0]) for batches in seen.values()}) > 3


def test_bfloat16_autocast_trains(tmp_path):
    model, _ = train(tmp_path, METHOD, bf16=True)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert compact_(model, METHOD).share <= METHOD.keep


def test_momentum_does_not_move_what_was_not_used(tmp_path):
    moved = []

    class Spy(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            self.before = [(layer.sparse.clone(), layer.u.clone()) for layer in training_layers(model).values()]

        def on_step_end(self, args, state, control, model=None, **kwargs):
            for (sparse, u), layer in zip(self.before, training_layers(model).values(), strict=True):
                if state.global_step > BOUNDARY:
                    assert torch.equal(sparse, layer.sparse)
                    moved.append((bool(layer.high_rank), not torch.equal(u, layer.u)))

    train(tmp_path, METHOD, callbacks=(Spy(),), optim="sgd", optim_args="momentum=0.9", weight_decay=0.1)
    assert set(moved) == {(True, False), (False, True)}


def test_stopping_before_the_boundary_is_refused_at_compaction(tmp_path):
    model, _ = train(tmp_path, METHOD, callbacks=(StopAt(5),))
    with pytest.raises(LosparseError, match="before the last phase of the schedule"):
        compact_(model, METHOD)


def test_layers_of_another_method_are_refused(tmp_path):
    with pytest.raises(LosparseError, match="no layer to prune"):
        train(tmp_path, LoSparse(keep=0.3, low_rank=0.1), callbacks=(LPAFCallback(METHOD),))


def test_gradients_are_unscaled_and_an_overflow_is_no_score():
    model = build_bert()
    compress_(model, METHOD)
    layers = training_layers(model)
    optimizer = torch.optim.SGD([layer.sparse for layer in layers.values()])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaled = SimpleNamespace(scaler=scaler, optimizer=optimizer)
    for layer in layers.values():
        assert isinstance(layer, MixedRankLinear)
        layer.sparse.grad = torch.full_like(layer.sparse, 2.0 * float(scaler.scale(torch.ones(()))))
    for _ in range(2):  # whoever comes second, as after clipping, has nothing left to do
        assert all((gradient == 2.0).all() for gradient in whole_gradients(layers, scaled))
    layer.sparse.grad[0, 0] = torch.inf
    assert whole_gradients(layers, None) is None
    layer.sparse.grad = None
    with pytest.raises(LosparseError, match="got no gradient in this step"):
        whole_gradients(layers, None)


WORKER = """
import sys, torch
sys.path[:0] = {path!r}
from pathlib import Path
from tests.core.test_lpaf_training import METHOD
from tests.core.test_training import train
from losparse.layers.training import training_layers
import torch.distributed as dist
model, trainer = train(
    Path(sys.argv[1]), METHOD, per_device_train_batch_size=4, ddp_backend="gloo",
    ddp_find_unused_parameters=False, ddp_broadcast_buffers=False,
)
assert dist.get_world_size() == 2
for name, layer in training_layers(model).items():
    assert layer.factored and 0 < int(layer.mask.sum()) < layer.mask.numel()
for name, tensor in model.state_dict().items():
    mine = tensor.to(torch.float64).flatten()
    gathered = [torch.zeros_like(mine) for _ in range(2)]
    dist.all_gather(gathered, mine)
    assert torch.equal(gathered[0], gathered[1]), f"ranks disagree on {{name}}"
if dist.get_rank() == 0:
    Path(sys.argv[1], "same").write_text("yes")
dist.destroy_process_group()
"""


def test_two_processes_agree_on_everything(tmp_path):
    run_two_processes(WORKER, tmp_path)
