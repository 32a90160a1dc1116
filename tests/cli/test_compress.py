"""`losparse compress`: what it leaves, what it refuses before it writes anything, and resuming."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, TrainerCallback

from losparse.errors import LosparseError
from losparse.pipeline import steps
from losparse.saving.staging import said_of_full_disks

from .conftest import FEW, Command, Pass, Sources, StopAt, edit_json, full_disk, name_classes, nothing_written

# What it leaves


def test_the_checkpoint_opens_with_transformers_and_has_learned(whole_pass: Pass) -> None:
    report = json.loads((whole_pass.compressed / "losparse_report.json").read_text())
    assert report["metrics"]["accuracy"] >= 0.9
    assert report["compression"]["share"] <= 0.4
    assert report["file_bytes"] < 0.7 * report["dense_file_bytes"]
    model = AutoModelForSequenceClassification.from_pretrained(whole_pass.compressed)
    assert model.config.id2label == {0: "bad", 1: "good"}
    layers = [module for module in model.modules() if type(module).__name__ == "FactoredLinear"]
    assert sum(layer.parameter_count() for layer in layers) == report["compression"]["parameters"]


def test_the_report_is_also_written_where_asked(whole_pass: Pass) -> None:
    assert json.loads((whole_pass.compressed.parent / "report.json").read_text()) == json.loads(
        (whole_pass.compressed / "losparse_report.json").read_text()
    )


def test_only_the_folder_is_left_and_everybody_may_read_it(whole_pass: Pass) -> None:
    names = {path.name for path in whole_pass.compressed.parent.iterdir()}
    assert names == {"small", "report.json", "small-onnx"}
    assert {path.name for path in whole_pass.compressed.iterdir()} >= {
        "config.json", "model.safetensors", "tokenizer.json", "losparse_report.json"
    }  # fmt: skip
    assert not [path for path in whole_pass.compressed.iterdir() if path.stat().st_mode & 0o044 != 0o044]


def test_stdout_is_the_table_and_stderr_is_empty(compress_into: Any, tmp_path: Path) -> None:
    done = compress_into(*FEW)
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert "4 steps" in lines[0]
    assert lines[1].split() == ["dense", "compressed", "share"]
    assert lines[-1].startswith("validation loss: ")
    assert any(line.startswith("bytes: ") and ", of which embeddings " in line for line in lines)


def test_verbose_says_the_stages_on_stderr(compress_into: Any) -> None:
    done = compress_into(*FEW, "--verbose")
    stages = [line.split(": ")[1] for line in done.err.splitlines()]
    assert [stage for stage in ("opening the model", "tokenising", "compressing") if stage in stages] == [
        "opening the model",
        "tokenising",
        "compressing",
    ]


def test_the_progress_bar_counts_steps_then_batches() -> None:
    seen: list[tuple[int, int | None]] = []
    callback = steps._StepCallback(lambda done, /, total=None, title=None: seen.append((done, total)))
    state: Any = SimpleNamespace(global_step=3, max_steps=5)
    nothing: Any = None
    callback.on_train_begin(nothing, state, nothing)
    for state.global_step in (4, 5):
        callback.on_step_end(nothing, state, nothing)
    for _ in range(2):
        callback.on_prediction_step(nothing, state, nothing, eval_dataloader=[1, 2])
    assert seen == [(3, 5), (1, None), (1, None), (-5, 2), (1, None), (1, None)]


@pytest.mark.parametrize("method", ["svd", "pruning", "lpaf"])
def test_other_methods(compress_into: Any, tmp_path: Path, method: str) -> None:
    done = compress_into("--method", method, "--keep", 0.5, "--max-steps", 4)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "losparse_report.json").read_text())
    assert report["recipe"]["method"]["name"] == method
    assert report["compression"]["share"] <= 0.5


def test_a_part_of_training_is_held_out_without_validation(compress_into: Any, tmp_path: Path) -> None:
    assert compress_into(*FEW, "--validation-share", 0.25, validation=None).code == 0
    examples = json.loads((tmp_path / "out" / "losparse_report.json").read_text())["examples"]
    assert sum(examples.values()) == 256
    assert examples["validation"] == pytest.approx(64, abs=8)


def test_texts_that_are_cut_are_counted(compress_into: Any, tmp_path: Path) -> None:
    done = compress_into(*FEW, "--max-length", 8)
    assert "longer than 8 tokens: " in done.out
    assert json.loads((tmp_path / "out" / "losparse_report.json").read_text())["truncated"]["train"] > 0


def test_a_teacher_is_imitated(compress_into: Any, whole_pass: Pass, model_copy: Path, tmp_path: Path) -> None:
    name_classes(model_copy, "bad", "good")
    assert compress_into(*FEW, "--teacher", model_copy, "--distill-weight", 0.5).code == 0


def test_the_order_of_a_head_without_names_is_said(
    compress_into: Any, model_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert compress_into(*FEW, model=model_copy).code == 0
    assert "are not called bad, good: these are taken for its classes 0 to 1 in this order" in caplog.text
    caplog.clear()
    name_classes(model_copy, "BAD", "Good")
    assert compress_into(*FEW, "--overwrite", model=model_copy).code == 0
    assert "are not called" not in caplog.text, "case is no difference"


def test_labels_keep_the_order_of_a_model_that_knows_them(compress_into: Any, model_copy: Path, tmp_path: Path) -> None:
    labels = {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    edit_json(model_copy / "config.json", **labels)
    assert compress_into(*FEW, model=model_copy).code == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == labels["id2label"]


def test_token_classification(compress_into: Any, tmp_path: Path) -> None:
    rows = [{"tokens": ["the", "fine", "film"], "tags": ["O", "B", "O"]}, {"tokens": ["dull"], "tags": ["B"]}] * 8
    file = tmp_path / "tags.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = compress_into("--task", "token-classification", *FEW, train=file, validation=file)
    assert done.code == 0, done.err
    assert "ForTokenClassification" in json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]


def test_question_answering(compress_into: Any, tmp_path: Path) -> None:
    answers = {"text": ["warm"], "answer_start": [13]}
    row = {"question": "the plot", "context": "the film was warm and dull", "answers": answers}
    file = tmp_path / "questions.jsonl"
    file.write_text((json.dumps(row) + "\n") * 8)
    done = compress_into("--task", "question-answering", *FEW, train=file, validation=file)
    assert done.code == 0, done.err
    assert "ForQuestionAnswering" in json.loads((tmp_path / "out" / "config.json").read_text())["architectures"][0]


# OUT


def test_an_existing_out_is_refused_and_kept(compress_into: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    compress_into(*FEW).refused("exists", "--overwrite")
    compress_into(*FEW, "--overwrite").refused("was not written by losparse")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_overwrite_replaces_what_losparse_wrote(compress_into: Any, tmp_path: Path) -> None:
    assert compress_into(*FEW).code == 0
    (tmp_path / "out" / "old.txt").write_text("old")
    assert compress_into(*FEW, "--overwrite", "--seed", 1).code == 0
    assert not (tmp_path / "out" / "old.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_out_must_not_be_the_model(losparse: Command, model_copy: Path, sources: Sources) -> None:
    for out in (model_copy, model_copy.parent):
        losparse("compress", model_copy, out, "--train", sources.train, "--overwrite").refused("another folder")


def test_a_json_file_that_cannot_be_written_is_refused_first(compress_into: Any, tmp_path: Path) -> None:
    compress_into(*FEW, "--json", tmp_path / "no" / "report.json").refused("--json", "existing folder")
    assert nothing_written(tmp_path)


# Interruption and resuming


def test_a_resumed_training_gives_the_same_weights(
    compress_into: Any, losparse: Command, sources: Sources, tmp_path: Path
) -> None:
    flags = ("--max-steps", 12, *FEW[2:], "--save-steps", 5)
    done = compress_into(*flags, callbacks=[StopAt(8)])
    assert (done.code, done.out, done.err.count("\n")) == (130, "", 1)
    assert done.err.startswith("losparse: interrupted; add --resume") and "out.partial" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    compress_into(*flags).refused("out.partial", "--resume", "--overwrite")
    compress_into(*flags, "--seed", 3, "--resume").refused("--resume", "recipe changed")
    assert compress_into(*flags, "--resume").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    files = ("--train", sources.train, "--validation", sources.validation)
    assert losparse("compress", sources.model, tmp_path / "straight", *files, *flags).code == 0
    resumed, straight = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "straight"))
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    logs = [json.loads((tmp_path / name / "losparse_report.json").read_text())["log"] for name in ("out", "straight")]
    assert logs[0] == logs[1] and logs[0][0]["kept_share"] == 1.0 and logs[0][-1]["step"] == 12


def test_a_checkpoint_that_was_cut_off_does_not_stop_a_resumed_training(
    compress_into: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    flags = ("--max-steps", 8, *FEW[2:], "--save-steps", 3)
    assert compress_into(*flags, callbacks=[StopAt(5)]).code == 130
    work = tmp_path / "out.partial"
    shutil.copytree(work / "checkpoint-3", work / "checkpoint-6")
    (work / "checkpoint-6" / "trainer_state.json").unlink()
    done = compress_into(*flags, "--resume")
    assert done.code == 0, done.err
    assert sum("checkpoint-6' was cut off" in message for message in caplog.messages) == 1
    assert "8 steps" in done.out and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_settings_of_a_training_that_are_damaged_name_the_way_out(compress_into: Any, tmp_path: Path) -> None:
    work = tmp_path / "out.partial"
    work.mkdir()
    (work / "settings.json").write_text('{"a": ')
    compress_into(*FEW, "--resume").refused(
        "settings.json' is damaged", "add --overwrite in place of --resume, or remove '", "out.partial', to begin again"
    )
    assert compress_into(*FEW, "--overwrite").code == 0


def test_resuming_where_there_is_nothing_to_go_on_with_says_so(
    compress_into: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert compress_into(*FEW, "--resume").code == 0
    said = [message for message in caplog.messages if "nothing to go on with" in message]
    assert said == [f"nothing to go on with at '{tmp_path / 'out.partial'}': starts anew"]
    caplog.clear()
    assert compress_into(*FEW, "--overwrite").code == 0
    assert "nothing to go on with" not in caplog.text


def test_a_training_that_stops_before_its_first_checkpoint_leaves_nothing(compress_into: Any, tmp_path: Path) -> None:
    assert compress_into(*FEW, "--save-steps", 3, callbacks=[StopAt(1)]).code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["on_train_end", "on_train_begin"], ids=["the result", "a checkpoint"])
def test_a_failure_while_saving_leaves_the_checkpoints_and_no_out(
    compress_into: Any, tmp_path: Path, when: str
) -> None:
    with contextlib.ExitStack() as disk:
        callback = TrainerCallback()
        setattr(callback, when, lambda *arguments, **options: disk.enter_context(full_disk()))
        done = compress_into(*FEW, "--save-steps", 2, callbacks=[callback])
    done.refused("cannot be written: ", "File too large", "make room on that disk, or choose another")
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    assert compress_into(*FEW, "--overwrite").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_said_of_files_that_torch_writes(tmp_path: Path) -> None:
    said = "cannot be written: torch's file came out too short; make room"
    with full_disk(), pytest.raises(LosparseError, match=said), said_of_full_disks(tmp_path):
        torch.save({"moments": torch.zeros(100_000)}, tmp_path / "optimizer.pt")
    with pytest.raises(RuntimeError, match="of another kind"), said_of_full_disks(tmp_path):
        raise RuntimeError("of another kind")


def test_a_foreign_partial_folder_is_left_alone(compress_into: Any, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    compress_into(*FEW, "--overwrite").refused("out.partial", "not written by losparse")


def test_columns_of_pairs(compress_into: Any, tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("a,b,mood\n" + "the film,was fine,good\na plot,was dull,bad\n" * 8)
    columns = ("--text-column", "a", "--pair-column", "b", "--label-column", "mood")
    assert compress_into(*FEW, *columns, train=file, validation=file).code == 0


def test_the_columns_of_training_are_not_those_of_plain_calibration_texts(
    compress_into: Any, texts: Path, tmp_path: Path
) -> None:
    file = tmp_path / "reviews.csv"
    file.write_text("review_body,label\nthe film was fine,good\na plot was dull,bad\n" * 8)
    columns = ("--text-column", "review_body", "--calibration", texts)
    done = compress_into("--method", "rom", "--keep", 0.5, "--max-steps", 1, *columns, train=file, validation=file)
    assert done.code == 0, done.err


def test_two_processes_share_one_training(sources: Sources, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    files = ("--train", sources.train, "--validation", sources.validation, "--batch-size", 16)
    arguments = ("compress", sources.model, tmp_path / "out", *files, *FEW)
    processes = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", 0, "--rdzv-backend", "c10d")
    endpoint = ("--rdzv-endpoint", "localhost:0")
    done = subprocess.run(
        [sys.executable, *map(str, (*processes, *endpoint, "-m", "losparse.cli", *arguments))],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((tmp_path / "out" / "losparse_report.json").read_text())["steps"] == 4
    assert done.stdout.count("validation accuracy") == 1
