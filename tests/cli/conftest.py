"""A tiny model with a real tokenizer, texts it can learn, and one pass of all commands over them."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

from losparse.cli import compress
from losparse.cli.main import Load, load_command, main

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
GOOD, BAD = ["fine", "great", "lovely", "warm"], ["dull", "poor", "cold", "awful"]
OTHER = ["the", "film", "a", "plot", "and", "was", "of", "story", "it", "with"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(SPECIAL + GOOD + BAD + OTHER)}
    inner = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )


def make_model(**overrides: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(**{**sizes, "vocab_size": 24, "max_position_embeddings": 32, **overrides})
    return BertForSequenceClassification(config)


def make_texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Return texts and labels; a text is good or bad by the words it holds."""
    choose = random.Random(seed)
    rows = []
    for number in range(count):
        words = choose.choices(OTHER, k=choose.randint(3, 8)) + choose.choices(GOOD if number % 2 else BAD, k=2)
        choose.shuffle(words)
        rows.append((" ".join(words), "good" if number % 2 else "bad"))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as sink:
        csv.writer(sink).writerows([("text", "label"), *rows])
    return path


@dataclass(frozen=True)
class Sources:
    """What a user starts from."""

    model: Path
    train: Path
    validation: Path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("sources")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    train = write_csv(folder / "train.csv", make_texts(256, 0))
    return Sources(folder / "model", train, write_csv(folder / "validation.csv", make_texts(64, 1)))


@pytest.fixture
def model_copy(sources: Sources, tmp_path: Path) -> Path:
    """A copy of the model to damage."""
    return Path(shutil.copytree(sources.model, tmp_path / "damaged"))


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A tiny Llama whose tokenizer, as Llama's, has no padding token."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    ids = {"vocab_size": 24, "bos_token_id": 2, "eos_token_id": 3}
    LlamaForCausalLM(LlamaConfig(**sizes, **ids, max_position_embeddings=16)).save_pretrained(tmp_path / "decoder")
    tokenizer = make_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def refused(self, *words: str) -> None:
        """Assert a refusal: exit code 2 and one line on stderr that holds these words."""
        assert self.code == 2, self.err
        assert self.out == ""
        assert self.err.startswith("losparse: error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err, self.err


Command = Callable[..., Outcome]


@pytest.fixture
def losparse(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process."""

    def run(*arguments: object, load: Load = load_command) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments], load)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def file_record(file: Path) -> dict[str, Any]:
    """What losparse.json says of a file."""
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def name_classes(model: Path, *names: str) -> None:
    """Give a model's classes names; those of the tiny model are LABEL_0 and LABEL_1."""
    ids = {str(number): name for number, name in enumerate(names)}
    edit_json(model / "config.json", id2label=ids, label2id={name: number for number, name in enumerate(names)})


TRAINING = ("--epochs", 8, "--learning-rate", 5e-3, "--no-freeze-embeddings", "--keep", 0.4, "--low-rank", 0.1)
"""Enough for the tiny model to learn the texts, in about three seconds."""


@dataclass(frozen=True)
class Pass:
    """Folders of one pass: compress, then export."""

    compressed: Path
    onnx: Path


@pytest.fixture(scope="session")
def whole_pass(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Pass:
    """Compress the tiny model by the command line, and export it: the one slow export these tests share."""
    folder = tmp_path_factory.mktemp("pass")
    files = ("--train", sources.train, "--validation", sources.validation)
    commands = (
        ("compress", sources.model, folder / "small", *files, *TRAINING, "--json", folder / "report.json"),
        ("export", folder / "small", folder / "small-onnx"),
    )
    for command in commands:
        assert main([str(argument) for argument in command]) == 0
    return Pass(folder / "small", folder / "small-onnx")


class StopAt(TrainerCallback):  # type: ignore[misc]
    """Interrupts a training, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


FEW = ("--max-steps", 4, "--no-freeze-embeddings", "--keep", 0.4, "--low-rank", 0.1)
"""A few steps, for tests that do not look at what was learned."""


@pytest.fixture
def compress_into(losparse: Command, sources: Sources, tmp_path: Path) -> Any:
    """Run `compress` into tmp_path/out; keywords replace the model and the files."""

    def run(*flags: object, callbacks: Sequence[TrainerCallback] = (), **changes: object) -> Outcome:
        files = {"model": sources.model, "train": sources.train, "validation": sources.validation, **changes}
        rest = [x for name in ("train", "validation") if files[name] is not None for x in (f"--{name}", files[name])]
        command = SimpleNamespace(add_options=partial(compress.add_options, callbacks=callbacks))
        return losparse("compress", files["model"], tmp_path / "out", *rest, *flags, load=lambda name: command)

    return run


@contextlib.contextmanager
def full_disk(most: int = 20_000) -> Iterator[None]:
    """Let this process write no file beyond some bytes: the system then refuses as where a quota is used up."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def nothing_written(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if "out" in path.name]


@pytest.fixture
def onnx_copy(whole_pass: Pass, tmp_path: Path) -> Path:
    """A copy of the compressed ONNX folder to damage."""
    return Path(shutil.copytree(whole_pass.onnx, tmp_path / "copy"))


HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "datasets", "pydantic"}


def loaded_by(program: str, **environment: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded at the end of a program."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(str(root / part) for part in (".", "export", "runtime"))
    program = f"{program}\nimport sys; print('LOADED', *sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )
    return set(done.stdout.splitlines()[-1].split()[1:])


@dataclass(frozen=True)
class Quantised:
    """An int8-static folder, and what its export printed."""

    onnx: Path
    out: str


@pytest.fixture(scope="session")
def quantised(whole_pass: Pass, sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    """Export the compressed model in int8-static, with texts to calibrate with and to measure accuracy on."""
    folder = tmp_path_factory.mktemp("quantised") / "int8"
    texts = ("--calibration", sources.train, "--data", sources.validation)
    command = ("export", whole_pass.compressed, folder, "--precision", "int8-static", *texts)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main([str(argument) for argument in command]) == 0
    return Quantised(folder, printed.getvalue())


@pytest.fixture
def squeeze(losparse: Command, sources: Sources, tmp_path: Path) -> Any:
    """Run `compress` into tmp_path/out without training; `model` replaces the model."""

    def run(*flags: object, model: Path | None = None) -> Any:
        return losparse("compress", model or sources.model, tmp_path / "out", *flags)

    return run


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A text a line."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(text for text, _ in make_texts(96, 3)))
    return file
