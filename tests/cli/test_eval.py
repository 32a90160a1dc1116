"""`losparse eval` on a folder, which loads no torch, and on a checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from losparse_runtime import FolderModel, Session, measure_choices, measure_perplexity
from losparse_runtime.evaluation.choices import Question

from ..core.conftest import build_llama
from ..runtime.decoder_models import Made, byte_tokenizer, write_decoder
from .conftest import Command, Pass, Sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("made") / "lm", Made())


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    texts, questions = tmp_path / "texts.txt", tmp_path / "q.csv"
    texts.write_text("Hello there\nyou\n")
    questions.write_text("context,choice0,choice1,answer\nHello,you,there,1\nyou,a,b,a\n")
    return texts, questions


def test_a_folder_is_measured(losparse: Command, folder: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    texts, questions = files
    out = tmp_path / "out.json"
    done = losparse(
        "eval", folder, "--texts", texts, "--choices", questions, "--window", "8", "--stride", "4", "--json", out
    )
    assert (done.code, done.err) == (0, "")
    model = FolderModel(Session(folder, threads=1))
    expected = measure_perplexity(model, ["Hello there", "you"], window=8, stride=4)
    asked = measure_choices(model, [Question("Hello", ("you", "there"), 1), Question("you", ("a", "b"), 0)])
    told = json.loads(out.read_text())
    assert told["engine"] == "onnxruntime" and told["variant"] == "fp32" and told["source"] == str(folder)
    # one thread and several add in another order
    assert told["texts"]["loss"] == pytest.approx(expected.loss, abs=1e-5)
    assert told["choices"]["accuracy"] == asked.accuracy and told["choices"]["questions"] == 2
    first, second = done.out.splitlines()
    assert first.startswith(
        f"perplexity {expected.perplexity:.4g} on 15 tokens of texts.txt (windows of 8, stride 4): "
    )
    assert (
        second.startswith(f"accuracy {asked.accuracy:.1%} +- ") and "on 2 questions of q.csv (chance 50.0%)" in second
    )


def test_a_folder_needs_no_torch(folder: Path, files: tuple[Path, Path]) -> None:
    texts, questions = files
    script = (
        "import sys; from losparse.cli.main import main; "
        f"code = main(['eval', {str(folder)!r}, '--texts', {str(texts)!r}, '--choices', {str(questions)!r}]); "
        "print(sorted({'torch', 'transformers', 'onnx'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_a_checkpoint_is_measured(losparse: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = build_llama().config.to_dict() | {"vocab_size": 259}
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(tmp_path / "model")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="</s>")
    tokenizer.save_pretrained(tmp_path / "model")
    done = losparse("eval", tmp_path / "model", "--texts", files[0], "--whole", "--threads", "1")
    assert (done.code, done.err) == (0, "")
    assert "on 15 tokens of texts.txt (windows of 64, stride 64)" in done.out, "16 bytes, of which the first has none"


def test_what_does_not_fit_is_one_line(losparse: Command, folder: Path, files: tuple[Path, Path]) -> None:
    for arguments, message in (
        ((), "there is nothing to measure; add --texts FILE for perplexity, or --choices FILE"),
        (("--texts", files[0], "--window", "65"), "window must be at most the 64 positions of"),
        (("--texts", files[0], "--stride", "513"), "stride must be in 1..64"),
        (("--texts", files[0], "--variant", "int9"), "int9"),
    ):
        done = losparse("eval", folder, *arguments)
        assert done.code == 2 and done.err.count("\n") == 1 and message in done.err


# Labelled texts


def test_a_checkpoint_and_its_folder_are_measured_on_labelled_texts(
    losparse: Command, whole_pass: Pass, sources: Sources, tmp_path: Path
) -> None:
    """The folder is that of the checkpoint, and both are measured as the training was."""
    trained = json.loads((whole_pass.compressed / "losparse_report.json").read_text())["metrics"]
    told = {}
    for name, source in (("pytorch", whole_pass.compressed), ("fp32", whole_pass.onnx)):
        done = losparse("eval", source, "--data", sources.validation, "--json", tmp_path / "out.json")
        assert (done.code, done.err) == (0, "")
        told[name] = json.loads((tmp_path / "out.json").read_text())["data"]
        assert done.out.startswith(f"{name}: accuracy {trained['accuracy']:.4g}")
        assert done.out.endswith(f"on {told[name]['texts']} texts of {sources.validation.name}\n")
    for name, found in told.items():
        assert found["metric"] == "accuracy" and list(found["models"]) == [name]
        assert found["models"][name]["value"] == pytest.approx(trained["accuracy"])
        assert found["models"][name]["metrics"]["matthews"]["value"] == pytest.approx(trained["matthews"])
    assert told["pytorch"]["models"]["pytorch"]["error"] is None and told["fp32"]["models"]["fp32"]["error"] is not None
    # in batches of another size: fp32
    assert told["pytorch"]["models"]["pytorch"]["metrics"]["loss"]["value"] == pytest.approx(trained["loss"], rel=1e-4)


def test_options_of_the_other_kind_are_refused(
    losparse: Command, folder: Path, files: tuple[Path, Path], sources: Sources
) -> None:
    losparse("eval", folder, "--data", sources.validation, "--window", "8").refused("leave out --window, or --data")
    losparse("eval", sources.model, "--data", sources.validation, "--variant", "int8").refused("--variant")
    losparse("eval", folder, "--texts", files[0], "--label-column", "label").refused("--label-column", "--data")
    losparse("eval", sources.model, "--data", sources.validation, "--provider", "X").refused("--variant and --provider")


def test_a_model_without_labels_takes_texts(losparse: Command, decoder: Path, sources: Sources) -> None:
    losparse("eval", decoder, "--data", sources.validation).refused(
        "--data is for models whose texts have labels (text-classification", "causal-lm; a language model takes --texts"
    )
