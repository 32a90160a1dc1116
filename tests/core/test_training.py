"""The callback in a real Trainer: budget, accumulation, resuming, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from losparse import SVD, LoSparse, LoSparseCallback, StructuredPruning, compact_, compress_
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.layers.training import training_layers
from losparse.training.distill import MeanLossTrainer

from .conftest import build_bert, collate, run_two_processes, toy_items

METHOD = LoSparse(keep=0.3, low_rank=0.1, structure="rows", window=2)


class StopAt(TrainerCallback):
    """Stops training after some step, as a killed job would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step >= self.step


def train(
    out: Path,
    method: Any = METHOD,
    *,
    steps: int = 20,
    callbacks: tuple = (),
    resume: bool | str = False,
    kind: type[Trainer] = Trainer,
    dropout: float = 0.1,
    **args: Any,
):
    set_seed(0)
    model = build_bert(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    data = [collate(toy_items(8, seed)) for seed in range(4)]
    compress_(model, method, () if method.trains else data, to_train=True)
    trainer = kind(
        model=model,
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            learning_rate=1e-3,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
            dataloader_pin_memory=False,
            logging_strategy="no",
            **{"save_strategy": "no", "per_device_train_batch_size": 8, **args},
        ),
        train_dataset=toy_items(64),
        eval_dataset=toy_items(8, seed=9),
        data_collator=collate,
        callbacks=[*method.callbacks(), *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return model, trainer


@pytest.mark.parametrize(
    "method",
    [
        METHOD,
        LoSparse(keep=0.3, low_rank=0.1, window=3, structure="columns"),
        LoSparse(keep=0.3, low_rank=0.1, window=3, structure="foldable", multiple=2),
        LoSparse(keep=0.3, low_rank=0.1, window=2, structure="foldable", uncertainty_beta=0.7, multiple=2),
        StructuredPruning(keep=0.3, window=2, structure="rows"),
    ],
    ids=["rows", "columns", "foldable", "platon", "pruning"],
)
def test_training_meets_the_budget_and_compacts_exactly(tmp_path, method):
    model, _ = train(tmp_path, method)
    model.eval()
    batch = {key: value for key, value in collate(toy_items(8, seed=5)).items() if key != "labels"}
    before = model(**batch).logits
    report = compact_(model, method)
    # Of 49,152 parameters: a group costs at most 64, and a step of two coupled ones 2 x 2 x 64.
    largest = 256 if method.structure == "foldable" else 64
    assert method.keep - largest / 49_152 * 1.1 <= report.share <= method.keep
    assert len({layer.spec.kept for layer in report.layers}) > 1, "one global threshold spends the budget unevenly"
    torch.testing.assert_close(model(**batch).logits, before, atol=1e-5, rtol=1e-5)
    assert not training_layers(model)


def test_dropped_groups_are_zero_after_every_final_step(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            layers = training_layers(model).values()
            seen.append(
                (
                    state.global_step,
                    all(bool((m.sparse[~m.mask] == 0).all()) for m in layers),
                    [m.mask.clone() for m in layers],
                )
            )

    train(tmp_path, callbacks=(Watch(),))
    final = [entry for entry in seen if METHOD.schedule(20).is_final(entry[0])]
    assert len(final) == 9  # steps 12..20
    assert all(zero for _, zero, _ in final)
    assert all(torch.equal(a, b) for _, _, masks in final for a, b in zip(masks, final[0][2], strict=True))


def test_resuming_gives_the_weights_of_not_stopping(tmp_path):
    straight, _ = train(tmp_path / "a")
    train(tmp_path / "b", callbacks=(StopAt(7),), save_strategy="steps", save_steps=7)
    resumed, _ = train(tmp_path / "b", resume=str(tmp_path / "b" / "checkpoint-7"), save_strategy="steps", save_steps=7)
    for (name, one), (_, other) in zip(straight.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_accumulated_micro_batches_score_like_one_batch(tmp_path):
    whole, _ = train(tmp_path / "a", steps=12)
    split, _ = train(tmp_path / "b", steps=12, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    # Dropout draws other numbers, so only the budget and the bulk of the choice can be compared.
    masks = [torch.cat([m.mask for m in training_layers(model).values()]) for model in (whole, split)]
    assert (masks[0] == masks[1]).float().mean() > 0.8


def test_bfloat16_autocast_trains(tmp_path):
    model, _ = train(tmp_path, steps=6, bf16=True)
    assert compact_(model, METHOD).share <= METHOD.keep
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_stopping_early_is_refused_at_compaction(tmp_path):
    model, _ = train(tmp_path, callbacks=(StopAt(5),))
    with pytest.raises(LosparseError, match="before the last phase of the schedule"):
        compact_(model, METHOD)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"steps": 3, "method": LoSparse(initial_steps=2, final_steps=2)}, "training has 3"),
        (
            {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 500},
            "load_best_model_at_end",
        ),
    ],
)
def test_refuses_at_the_start_of_training(tmp_path, kwargs, message):
    with pytest.raises(LosparseError, match=message):
        train(tmp_path, **kwargs)


def test_refuses_a_model_that_was_not_prepared(tmp_path):
    trainer = Trainer(
        model=build_bert(),
        args=TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, max_steps=2),
        train_dataset=toy_items(8),
        data_collator=collate,
        callbacks=[LoSparseCallback(METHOD)],
    )
    with pytest.raises(LosparseError, match="call compress_"):
        trainer.train()


def test_refuses_frozen_layers(tmp_path):
    class Freeze(TrainerCallback):
        def on_init_end(self, args, state, control, model=None, **kwargs):
            next(iter(training_layers(model).values())).sparse.requires_grad_(False)

    with pytest.raises(LosparseError, match="is frozen"):
        train(tmp_path, callbacks=(Freeze(),))


def test_a_one_shot_method_needs_no_training():
    model = build_bert()
    report = compress_(model, SVD(keep=0.3))
    assert report.share <= 0.3
    assert sum(isinstance(m, FactoredLinear) for m in model.modules()) == 12


WORKER = """
import sys, torch
sys.path[:0] = {path!r}
from pathlib import Path
from tests.core.test_training import train
from losparse.layers.training import training_layers
from losparse.training.distill import MeanLossTrainer
import torch.distributed as dist
from losparse.training.distill import MeanLossTrainer
model, trainer = train(
    Path(sys.argv[1]), steps=12, kind=MeanLossTrainer, dropout=0.0, per_device_train_batch_size=4, ddp_backend="gloo"
)
masks = torch.cat([m.mask for m in training_layers(model).values()]).to(torch.int64)
gathered = [torch.zeros_like(masks) for _ in range(dist.get_world_size())]
dist.all_gather(gathered, masks)
assert dist.get_world_size() == 2
assert torch.equal(gathered[0], gathered[1]), "ranks disagree"
assert 0 < int(masks.sum()) < len(masks)
if dist.get_rank() == 0:
    model.save_pretrained(Path(sys.argv[1], "model"))
    Path(sys.argv[1], "same").write_text("yes")
dist.destroy_process_group()
"""


def test_two_processes_take_the_masks_of_one(tmp_path):
    """Two processes of 4 examples a step are one process of 8, and both ranks take the same masks."""
    run_two_processes(WORKER, tmp_path)
    one, _ = train(tmp_path / "one", steps=12, kind=MeanLossTrainer, dropout=0.0, per_device_train_batch_size=8)
    two = type(one).from_pretrained(tmp_path / "model")
    for name, layer in training_layers(one).items():
        assert torch.equal(layer.mask, training_layers(two)[name].mask), name
    batch = {key: value for key, value in collate(toy_items(32, seed=5)).items() if key != "labels"}
    with torch.no_grad():
        # Gradients are summed in another order, and Adam makes much of the smallest of them: a step is 1e-3 whatever
        # the gradient's size. Logits are of the order of 1.
        torch.testing.assert_close(two.eval()(**batch).logits, one.eval()(**batch).logits, rtol=0, atol=1e-3)
