"""Training and calibration where stderr is no terminal: a line a minute says where they are."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from losparse import LoSparse
from losparse.cli.progress import StderrProgress
from losparse.data.loading import load_examples, tokenize
from losparse.data.tokens import Tokenized
from losparse.pipeline.steps import train_model
from losparse.training.recipe import Recipe, Training

from .conftest import Sources


def test_step_loss_and_expected_end(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(sources.model)
    tokenizer = AutoTokenizer.from_pretrained(sources.model)

    def rows(file: Path) -> Tokenized:
        examples = load_examples(file, task="text-classification")
        return tokenize(examples, tokenizer, task="text-classification", max_length=16)

    method = LoSparse(keep=0.5, low_rank=0.1, window=1)
    recipe = Recipe(method=method, training=Training(max_steps=6, batch_size=8))
    minutes = itertools.count(start=0, step=60)  # a minute goes by whenever somebody looks at the clock
    progress = StderrProgress(verbose=False, draws=False, every_s=60.0, clock=lambda: float(next(minutes)))
    train_model(model, tokenizer, (rows(sources.train), rows(sources.validation)), recipe, tmp_path, progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    line = re.compile(r"losparse: compressing: (\d) of 6 \(\d+%\), loss (0\.\d+), ends about \d\d:\d\d")
    found = [match for each in shown.err.splitlines() if (match := line.fullmatch(each))]
    assert {int(match[1]) for match in found} >= {2, 3, 4, 5, 6}
    assert all(0.1 < float(match[2]) < 2.0 for match in found)
    assert re.search(r"losparse: measuring on validation: \d of 4 \(\d+%\), ends about", shown.err)
