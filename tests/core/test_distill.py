"""Imitating a teacher: its logits, and its hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from losparse import LoSparse, Training, compress_, fine_tune
from losparse.errors import LosparseError
from losparse.training.distill import distillation_loss, hidden_loss, pair_blocks
from losparse.training.trainer import make_trainer
from losparse_runtime.contract.task import TEXT_CLASSIFICATION

from .conftest import build_bert, collate, toy_items

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_distillation_loss_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    p = F.softmax(teacher / 2, -1)
    expected = 4 * (p * (p / 0.5).log()).sum()  # T = 2: KL against the uniform student, times T^2
    torch.testing.assert_close(distillation_loss(student, teacher, torch.tensor([0]), 2.0, "class"), expected)
    assert distillation_loss(teacher, teacher, None, 2.0, "class") == 0
    # token level: the row labelled -100 is left out
    rows = distillation_loss(
        student.expand(1, 2, 2), torch.stack([teacher[0], student[0]])[None], torch.tensor([[0, -100]]), 2.0, "class"
    )
    torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize("part", [1, 40, 10**6])
def test_tokens_are_compared_part_by_part_without_keeping_more(part: int):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 11, requires_grad=True), torch.randn(2, 5, 11)
    kept: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = distillation_loss(student, teacher, torch.ones(2, 5), 3.0, "none", part=part)
    (gradient,) = torch.autograd.grad(loss, student)
    assert kept <= {each.untyped_storage().data_ptr() for each in (student, teacher)}, "logits are there anyway"
    p, q = (F.softmax(each.double() / 3, -1) for each in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)  # fp32
    # d/dz of T^2 mean KL is T (q - p) over the number of tokens
    torch.testing.assert_close(gradient.double(), 3 * (q - p).detach() / 10, rtol=1e-4, atol=1e-7)


def test_any_number_of_classes_is_imitated_one_by_one():
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    p = torch.sigmoid(torch.tensor(1.0))  # of the first logit at T = 2; the second ones are equal
    expected = 4 * (p * (p / 0.5).log() + (1 - p) * ((1 - p) / 0.5).log()) / 2
    torch.testing.assert_close(distillation_loss(student, teacher, torch.ones(1, 2), 2.0, "classes"), expected)


def test_a_regression_imitates_the_value():
    # softmax of one logit is 1 whatever it is, so KL would teach nothing
    loss = distillation_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [5.0]]), None, 2.0, "number")
    assert loss == (1 + 9) / 2


def test_hidden_loss_by_hand():
    ones, zeros = torch.ones(1, 2, 4), torch.zeros(1, 2, 4)
    other = torch.tensor([[[3.0] * 4, [100.0] * 4]])  # the second token is padding
    mask = torch.tensor([[1, 0]])
    # pairs: 1^2 and 3^2 per element
    assert hidden_loss([ones, other], [zeros, zeros], mask) == (1 + 9) / 2
    assert hidden_loss([ones, ones], [zeros, zeros], None) == 1


def test_blocks_are_paired_evenly_and_end_on_the_last():
    student, teacher = build_bert(num_hidden_layers=2), build_bert(num_hidden_layers=6)
    mine, theirs = pair_blocks(student, teacher)
    assert mine == list(student.bert.encoder.layer)
    assert theirs == [teacher.bert.encoder.layer[2], teacher.bert.encoder.layer[5]]
    with pytest.raises(LosparseError, match="a teacher of 6 blocks or more, got 2"):
        pair_blocks(teacher, student)
    with pytest.raises(LosparseError, match="hidden states of 32 elements, got 16"):
        pair_blocks(student, build_bert(hidden_size=16))


@pytest.mark.parametrize("compressed", [False, True])
def test_the_loss_is_the_mixture(tokenizer, tmp_path: Path, compressed: bool):
    student = build_bert(seed=1, num_hidden_layers=2, **NO_DROPOUT).train()
    teacher = build_bert(num_hidden_layers=4, **NO_DROPOUT).eval()
    if compressed:
        compress_(student, LoSparse(keep=0.4, low_rank=0.1))
    batch = collate(toy_items(6))
    recipe = Training(distill_weight=0.25, distill_temperature=3.0, distill_hidden=2.0)
    parts = (toy_items(4), toy_items(4))
    where = {"task": TEXT_CLASSIFICATION, "output_dir": tmp_path, "quiet": True}
    trainer = make_trainer(student, tokenizer, parts, recipe, teacher=teacher, **where)
    loss = trainer.compute_loss(student, batch)
    with torch.no_grad():
        one, other = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    real = batch["attention_mask"].bool()
    pairs = ((one.hidden_states[1], other.hidden_states[2]), (one.hidden_states[2], other.hidden_states[4]))
    hidden = sum(F.mse_loss(a[real], b[real]) for a, b in pairs) / 2
    kl = distillation_loss(one.logits, other.logits, None, 3.0, "class")
    torch.testing.assert_close(loss, 0.75 * one.loss + 0.25 * kl + 2.0 * hidden)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    student.eval()
    torch.testing.assert_close(trainer.compute_loss(student, batch), one.loss)  # evaluation reports the task's loss


def test_hidden_states_are_learned_without_the_logits(tokenizer, tmp_path: Path):
    def distance() -> float:
        with torch.no_grad():
            one, other = (model(**collate(items), output_hidden_states=True) for model in (student, teacher))
        real = collate(items)["attention_mask"]
        return float(hidden_loss(one.hidden_states[1:], other.hidden_states[1:], real))

    student, teacher, items = build_bert(seed=1), build_bert(), toy_items(32)
    before = distance()
    training = Training(max_steps=30, learning_rate=3e-3, freeze_embeddings=False, distill_hidden=10.0)
    fine_tune(student, tokenizer, items, items, training, output_dir=tmp_path, teacher=teacher, quiet=True)
    assert distance() < 0.3 * before
    with pytest.raises(LosparseError, match="distill_hidden is above 0, which needs a teacher"):
        fine_tune(student, tokenizer, items, items, training, output_dir=tmp_path, quiet=True)
