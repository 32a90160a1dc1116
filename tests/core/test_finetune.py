"""fine_tune: compression, distillation and metrics in one call."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    TrainerCallback,
)

from losparse import LPAF, SVD, LoSparse, Training, fine_tune
from losparse.data.tasks.question_answering import QuestionAnswering, Window, spans
from losparse.data.tasks.registry import TASK_DATA
from losparse.data.tokens import Tokenized
from losparse.environment import machine
from losparse.errors import LosparseError
from losparse.layers.factored import FactoredLinear
from losparse.models.embeddings import freeze_embeddings
from losparse.training.batches import calibration_batches
from losparse.training.fine_tune import bf16_is_slow, warn_of_slow_bf16
from losparse.training.resume import last_checkpoint, missing_part
from losparse_runtime.contract.task import TEXT_CLASSIFICATION

from .conftest import build_bert, toy_items

TRAINING = Training(max_steps=30, learning_rate=3e-3, batch_size=8, freeze_embeddings=False)


def run(tokenizer, tmp_path, training=TRAINING, **kwargs):
    model = build_bert()
    result = fine_tune(
        model, tokenizer, toy_items(128), toy_items(64, seed=9), training, output_dir=tmp_path, quiet=True, **kwargs
    )
    return model, result


@pytest.mark.parametrize(
    "method", [LoSparse(keep=0.4, low_rank=0.1, window=2), LPAF(keep=0.4, window=2)], ids=["losparse", "lpaf"]
)
def test_learns_while_it_compresses(tokenizer, tmp_path, method):
    model, result = run(tokenizer, tmp_path, method=method)
    assert result.metrics["accuracy"] > 0.9, "the toy task is easy"
    assert result.compression.share <= 0.4
    assert result.steps == 30
    kept = [row["kept_share"] for row in result.log if "kept_share" in row]
    # The residual of LoSparse has what the low-rank part leaves of the budget; LPAF prunes to the whole of it.
    rest = pytest.approx(0.3, abs=0.05) if isinstance(method, LoSparse) else 0.4
    assert kept[0] == 1.0 and kept == sorted(kept, reverse=True) and kept[-1] == rest
    assert all(type(m) is FactoredLinear for m in model.modules() if isinstance(m, FactoredLinear))
    assert not model.training


def test_dense_and_one_shot_methods_train_too(tokenizer, tmp_path):
    assert run(tokenizer, tmp_path)[1].compression is None
    assert run(tokenizer, tmp_path, method=SVD(keep=0.3))[1].compression.share <= 0.3


def test_the_same_seed_gives_the_same_model(tokenizer, tmp_path):
    one, _ = run(tokenizer, tmp_path)
    other, _ = run(tokenizer, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_accumulated_batches_give_the_gradients_of_one_batch(tokenizer, tmp_path):
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            norms.append(float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()))

    for batch, accumulation in ((8, 1), (4, 2)):
        training = Training(
            max_steps=1, batch_size=batch, gradient_accumulation=accumulation, max_grad_norm=0, freeze_embeddings=False
        )
        model = build_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        items = toy_items(8)
        fine_tune(
            model, tokenizer, items, items, training, output_dir=tmp_path, quiet=True, callbacks=(Watch(),)
        )  # fmt: skip
    # the same eight texts once: one mean, or the mean of two means; fp32
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_distillation_follows_the_teacher(tokenizer, tmp_path):
    teacher, _ = run(tokenizer, tmp_path)
    training = Training(max_steps=30, learning_rate=3e-3, batch_size=8, freeze_embeddings=False, distill_weight=1.0)
    _, result = run(tokenizer, tmp_path, training, teacher=teacher, method=LoSparse(keep=0.4, low_rank=0.1, window=2))
    assert result.metrics["accuracy"] > 0.9, "no label was seen, only the teacher"
    with pytest.raises(LosparseError, match="needs a teacher"):
        run(tokenizer, tmp_path, training)


@pytest.mark.parametrize("method", [None, LoSparse(keep=0.4, low_rank=0.1, window=1)], ids=["dense", "losparse"])
def test_a_training_that_diverges_stops_and_leaves_no_checkpoint_with_nan(tokenizer, tmp_path, method):
    training = Training(max_steps=12, learning_rate=1e30, batch_size=8, freeze_embeddings=False, save_steps=1)
    with pytest.raises(LosparseError, match=r"training diverged: the loss is nan at step \d; lower learning_rate"):
        run(tokenizer, tmp_path, training, method=method)
    saved = list(tmp_path.glob("checkpoint-*"))
    assert saved, "the first step leaves finite weights"
    for folder in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


class Ruin(TrainerCallback):
    """Does what a step of a diverging training does to the weights."""

    def __init__(self, value):
        self.value = value

    def on_step_end(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            model.classifier.bias.copy_(torch.tensor([self.value, -self.value]))


def test_weights_that_only_the_last_step_ruined_are_found(tokenizer, tmp_path):
    for save_steps in (None, 1):
        training = Training(max_steps=1, batch_size=8, save_steps=save_steps)
        with pytest.raises(LosparseError, match=r"diverged: 'classifier.bias' holds NaN or infinity after step 1"):
            run(tokenizer, tmp_path, training, callbacks=(Ruin(float("inf")),))
    with pytest.raises(LosparseError, match="the validation loss must be finite, got "):
        run(tokenizer, tmp_path, Training(max_steps=1, batch_size=8), callbacks=(Ruin(3e38),))
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": torch.nn.Identity()}, "teacher= is imitated by distill_weight or distill_hidden, and both are 0"),
        ({"targets": ("a",)}, "targets= is for compressing, and there is no method; leave it out, or pass method="),
        ({"ignore": ("a",)}, "ignore= is for compressing, and there is no method"),
        ({"calibration": []}, "calibration= is for compressing, and there is no method"),
        ({"sequential": False}, "sequential= is for compressing, and there is no method"),
        ({"calibration": [], "method": LoSparse()}, "calibration= is for methods that look at texts, LoSparse does"),
        ({"calibration": [], "method": SVD()}, "calibration= is for methods that look at texts, SVD does not"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(tokenizer, tmp_path, arguments, message):
    items = toy_items(4)
    with pytest.raises(LosparseError, match=message):
        fine_tune(build_bert(), tokenizer, items, items, Training(), output_dir=tmp_path, quiet=True, **arguments)


def test_a_batch_without_a_label_is_no_divergence(tokenizer, tmp_path):
    items = toy_items(4)
    unlabelled = [{**items[0], "labels": -100}]  # the mean over no label is NaN, its gradients are zero
    training = Training(max_steps=2, batch_size=1)
    model = build_bert()
    result = fine_tune(model, tokenizer, unlabelled, items, training, output_dir=tmp_path, quiet=True)
    assert np.isfinite(result.metrics["loss"])


@pytest.fixture
def checkpoints(tokenizer, tmp_path):
    """A whole checkpoint after step 2, and one after step 4 to cut."""
    run(tokenizer, tmp_path, Training(max_steps=2, batch_size=8, save_steps=2))
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / "checkpoint-4")
    return tmp_path


FILES = ("trainer_state.json", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_was_cut_off_is_left_out_and_removed(checkpoints, caplog, name):
    whole, cut = checkpoints / "checkpoint-2", checkpoints / "checkpoint-4"
    assert last_checkpoint(checkpoints, clean=True) == cut, "the newer one, while it is whole"
    content = (cut / name).read_bytes()
    (cut / name).write_bytes(content[: len(content) // 2])
    assert last_checkpoint(checkpoints, clean=False) == whole and cut.exists()
    (cut / name).unlink()
    with caplog.at_level("WARNING", logger="losparse"):
        assert last_checkpoint(checkpoints, clean=True) == whole and not cut.exists()
    assert caplog.messages == [f"'{cut}' was cut off while it was written ({name}), so it is left out and removed"]
    shutil.rmtree(whole)
    assert last_checkpoint(checkpoints, clean=True) is None
    assert last_checkpoint(checkpoints / "none", clean=True) is None


def test_sharded_weights_must_be_there_in_every_part(checkpoints):
    cut = checkpoints / "checkpoint-4"
    (cut / "model.safetensors").rename(cut / "part1.safetensors")
    index = {"weight_map": {"a": "part1.safetensors", "b": "part1.safetensors"}}
    (cut / "model.safetensors.index.json").write_text(json.dumps(index))
    assert last_checkpoint(checkpoints, clean=False) == cut
    index["weight_map"]["b"] = "part2.safetensors"
    (cut / "model.safetensors.index.json").write_text(json.dumps(index))
    assert missing_part(cut) == "part2.safetensors"


def question_items():
    return [
        {"input_ids": [10 + n] * (2 + n), "attention_mask": [1] * (2 + n), "start_positions": n, "end_positions": n}
        for n in range(6)
    ]


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_what_a_model_does_not_say_itself_must_be_said(tokenizer, tmp_path, kind):
    model, items = kind(build_bert().config), toy_items(4)
    with pytest.raises(LosparseError, match=rf"train {kind.__name__} for must be said: pass task=, one of text-class"):
        fine_tune(model, tokenizer, items, items, Training(max_steps=1), output_dir=tmp_path, quiet=True)
    with pytest.raises(LosparseError, match=r"task must be one of text-classification, .*, got 'feature-extraction'"):
        fine_tune(
            model, tokenizer, items, items, Training(), output_dir=tmp_path, task="feature-extraction", quiet=True
        )


def test_one_output_is_a_number_where_nothing_else_is_said(tokenizer, tmp_path):
    items = [{**item, "labels": float(item["labels"])} for item in toy_items(8)]
    training = Training(max_steps=1, batch_size=4)
    model = build_bert(num_labels=1)
    result = fine_tune(model, tokenizer, items, items, training, output_dir=tmp_path, quiet=True)
    assert list(result.metrics) == ["pearson", "spearman", "mse", "loss"]


def test_windows_of_questions_are_measured_by_question(tokenizer, tmp_path, monkeypatch):
    seen = []

    class Watched(QuestionAnswering):
        def metric(self):
            return lambda found: seen.append(found) or spans(found)

    monkeypatch.setitem(TASK_DATA, "question-answering", Watched())
    model = BertForQuestionAnswering(build_bert().config)
    # the Trainer measures long rows first, so these come in another order
    windows = [Window(question, 1, 2 + n, 1) for n, question in enumerate([0, 0, 1, 2, 2, 2])]
    rows = Tokenized(question_items(), notes=windows)
    training = Training(max_steps=1, batch_size=1)
    result = fine_tune(model, tokenizer, rows, rows, training, output_dir=tmp_path, quiet=True)
    first, last, facts = seen[0].label_ids
    assert sorted(zip(map(tuple, facts), first, last, strict=True)) == [(w, n, n) for n, w in enumerate(windows)]
    assert [tuple(each) for each in facts] != windows and len(seen[0].predictions[0]) == 6
    assert 3 * result.metrics["accuracy"] == pytest.approx(round(3 * result.metrics["accuracy"])), "three questions"


def test_rows_that_do_not_know_their_context_have_no_accuracy(tokenizer, tmp_path, caplog):
    model, items = BertForQuestionAnswering(build_bert().config), question_items()
    with caplog.at_level("WARNING", logger="losparse.training.trainer"):
        result = fine_tune(
            model, tokenizer, items, items, Training(max_steps=1, batch_size=1), output_dir=tmp_path, quiet=True
        )
    assert "loss" in result.metrics and "accuracy" not in result.metrics
    assert any("do not say which of their tokens are the context's" in message for message in caplog.messages)


def test_rows_of_questions_are_padded_behind(tokenizer):
    tokenizer.padding_side = "left"
    batch = TASK_DATA["question-answering"].collator(tokenizer)(question_items()[:2])
    assert batch["input_ids"].tolist() == [[10, 10, 0], [11, 11, 11]], "labels are places in the row"
    assert tokenizer.padding_side == "left", "the caller's own pads as before"


def test_calibration_takes_no_more_than_is_asked_for(tokenizer):
    items = toy_items(60)

    def rows(training, **most):
        batches = calibration_batches(items, tokenizer, training, task=TEXT_CLASSIFICATION, **most)
        return sum(len(batch["input_ids"]) for batch in batches)

    assert rows(Training()) == 60 and rows(Training(calibration_examples=7)) == 7
    lengths = [len(items[int(place)]["input_ids"]) for place in np.random.default_rng(0).permutation(60)]
    most = sum(lengths[:9]) + 1
    assert rows(Training(), most_tokens=most) == 9 and rows(Training(calibration_examples=50), most_tokens=most) == 50
    assert rows(Training(), most_tokens=1) == 1


def test_embeddings_are_frozen_by_name():
    model = BertModel(build_bert().config)
    frozen = freeze_embeddings(model)
    assert frozen == sum(p.numel() for p in model.embeddings.parameters())
    assert all(p.requires_grad for p in model.encoder.parameters())


def test_a_decoders_tables_are_frozen_too():
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8))
    assert freeze_embeddings(model) == 16 * 20 + 16 * 8
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [
        "transformer.wte.weight",
        "transformer.wpe.weight",
    ]


@pytest.mark.parametrize("slow", [True, False])
def test_bf16_on_a_processor_that_emulates_it_is_warned_of(caplog, slow):
    with caplog.at_level("WARNING", logger="losparse.training.fine_tune"):
        warn_of_slow_bf16(Training(), slow=lambda: slow)
        assert not caplog.messages, "it is off"
        warn_of_slow_bf16(Training(bf16=True), slow=lambda: slow)
    assert any("leave bf16 out here" in message for message in caplog.messages) == slow


def test_training_in_bf16_warns_by_this_processor(tokenizer, tmp_path, caplog):
    short = Training(max_steps=1, batch_size=2, bf16=True)
    with caplog.at_level("WARNING", logger="losparse.training.fine_tune"):
        run(tokenizer, tmp_path, training=short)
    assert any("leave bf16 out here" in message for message in caplog.messages) == bf16_is_slow()


def test_a_model_trained_in_bf16_runs_in_fp32_afterwards(tokenizer, tmp_path):
    short = Training(max_steps=2, batch_size=2, bf16=True)
    model, _ = run(tokenizer, tmp_path, training=short, method=SVD(keep=0.5))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    assert not torch.equal(logits, logits.bfloat16().float()), "under autocast they have the digits of bf16"


def test_the_cache_is_on_again_after_training(tokenizer, tmp_path):
    model, _ = run(tokenizer, tmp_path, training=Training(max_steps=1, batch_size=2))
    assert model.config.use_cache, "the Trainer turns it off, and saves it so"


def test_bf16_is_called_slow_only_where_the_product_is():
    # a machine that names its instructions: with AVX-512 torch has kernels of its own for bf16
    flags = machine()["cpu"]
    if torch.accelerator.is_available() or "AVX2" not in flags:
        pytest.skip("x86 without an accelerator is what is known")
    assert bf16_is_slow() == ("AVX-512" not in flags)
