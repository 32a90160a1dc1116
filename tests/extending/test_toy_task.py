"""A task is added by its entry in `TASKS` and what hangs on it in the other registries: no other file changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from losparse_runtime import InputError, Session
from losparse_runtime.contract.task import TASKS
from losparse_runtime.tasks import HELPERS

from ..cli.conftest import Command, losparse, make_model, make_tokenizer
from .toys.task import HELPER, LEANING, lean

__all__ = ["losparse"]  # a fixture of the command line's tests

TEXTS = ["the film was great", "a dull plot", "it was awful and cold"]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two lines that a new task adds to registries."""
    monkeypatch.setitem(TASKS, LEANING.name, LEANING)
    monkeypatch.setitem(HELPERS, HELPER.name, HELPER)


@pytest.mark.usefixtures("registered")
def test_a_toy_task_is_exported_checked_and_run(losparse: Command, tmp_path: Path) -> None:
    source, out = tmp_path / "model", tmp_path / "out"
    make_model().save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    done = losparse("export", source, out, "--task", "leaning")
    assert (done.code, done.err) == (0, "") and done.out.startswith(f"{out}: leaning, fp32")

    session = Session(out, threads=1)
    assert (session.task, session.labels) == ("leaning", None)
    model = BertForSequenceClassification.from_pretrained(source).eval()
    with torch.no_grad():
        logits = model(**make_tokenizer()(TEXTS, padding=True, return_tensors="pt")).logits
    expected = (logits[:, 1] - logits[:, 0]).tolist()
    assert lean(session, TEXTS, batch_size=2) == pytest.approx(expected, abs=1e-5)  # fp32 in another order of sums

    printed = losparse("run", out, *TEXTS)
    assert printed.out.splitlines()[0].split() == ["leaning", "text"]
    assert [float(line.split()[0]) for line in printed.out.splitlines()[1:]] == pytest.approx(expected, abs=1e-3)
    losparse("run", out, "a", "--question", "b").refused("--question is for question-answering", "does leaning")
    losparse("run", out, "a", "--batch-size", 1, "--prompt", "b").refused("--prompt is for feature-extraction")
    assert losparse("check", out, "--reference", source).code == 0
    # No method of Session is called lean.
    message = r"tag needs a token-classification folder, .* is for leaning; use run for the raw outputs"
    with pytest.raises(InputError, match=message):
        session.tag(TEXTS)


@pytest.mark.usefixtures("registered")
def test_a_toy_task_is_found_by_the_name_of_a_class() -> None:
    from losparse_export.opening.task_model import choose_task

    assert choose_task(None, "BertForLeaning", "m") is LEANING
    assert choose_task("leaning", "BertForSequenceClassification", "m", "regression", 1) is LEANING
