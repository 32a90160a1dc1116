"""What is said of a text beside other texts, and how vectors of texts agree: measured, printed, held where asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from losparse.cli.export import _print_agreement
from losparse_export import TaskModel
from losparse_export.parity.gate import ParityReport, check_parity
from losparse_export.parity.mates import BatchMates, compare_with_mates
from losparse_export.parity.vectors import VectorAgreement, VectorComparison
from losparse_runtime import Session, read_metadata
from losparse_runtime.contract.task import TASKS
from losparse_runtime.engine.cpus import int8_overflows

from ..runtime.conftest import make_folder
from .test_export_precision_model import options

__all__ = ["make_folder"]  # a fixture of the runtime's tests

# fp32 sums in the order that the shape of a batch gives them: 1e-6. In int8 a step is 1/255 of the largest number.
ROUNDING = 1e-4


def two_texts() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A text of 5 tokens alone, and in front of one of 30, padded."""
    random = np.random.default_rng(0)
    short, long = random.integers(1, 100, (1, 5)), random.integers(1, 100, (1, 30))
    ids = np.concatenate([np.pad(short, ((0, 0), (0, 25))), long])
    mask = np.concatenate([np.pad(np.ones_like(short), ((0, 0), (0, 25))), np.ones_like(long)])
    return {"input_ids": short}, {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-rows", "int8-static"])
def test_how_far_answers_move_is_in_the_report(export_bert, tmp_path, precision):
    report = export_bert(tmp_path / "out", **options(precision))
    mates = report.parity.batch_mates
    assert mates.texts == 12 and report.metadata["parity"]["batch_mates"] == mates.to_dict()
    assert read_metadata(tmp_path / "out").parity["batch_mates"] == mates.to_dict()
    assert (mates.max_abs > ROUNDING) == (precision == "int8")
    alone, beside = two_texts()
    for invariant in (False, True):
        session = Session(tmp_path / "out", threads=1, batch_invariant=invariant)
        moved = np.abs(session.run(alone)["logits"] - session.run(beside)["logits"][:1]).max()
        assert (moved > ROUNDING) == (precision == "int8" and not invariant)
        assert not (invariant and precision == "int8" and moved)  # the same run, bit for bit


@pytest.mark.parametrize(
    "bits", [7, pytest.param(8, marks=pytest.mark.skipif(int8_overflows(), reason="such an export is refused here"))]
)
def test_in_rows_a_batch_of_all_lengths_says_what_each_text_has_alone(export_bert, tmp_path, bits):
    """Of 24 texts of 1 to 40 tokens, one of which is 40 times the same: the order of sums is all that may differ."""
    export_bert(tmp_path / "out", precision="int8-rows", weight_bits=bits)
    session, random = Session(tmp_path / "out", threads=1), np.random.default_rng(1)
    texts = [random.integers(1, 100, int(count)) for count in random.integers(1, 41, 22)]
    texts += [np.full(40, 7), np.array([3])]
    alone = np.concatenate([session.run({"input_ids": text[None]})["logits"] for text in texts])
    ids = np.stack([np.pad(text, (0, 40 - len(text))) for text in texts])
    mask = np.stack([np.arange(40) < len(text) for text in texts]).astype(np.int64)
    batch = session.run({"input_ids": ids, "attention_mask": mask})["logits"]
    assert np.abs(batch - alone).max() < ROUNDING < np.abs(alone).max() / 10
    assert session.metadata.weight_bits == bits and not session.metadata.variant.mixes_texts


def test_padding_on_the_left_is_measured_told_and_avoided(export_bert, bert, tmp_path, caplog):
    """BERT numbers positions from the first place of the row, so padding in front of a text moves its answer."""
    export_bert(tmp_path / "out")
    assert not caplog.messages
    settings = tmp_path / "out" / "tokenizer_config.json"
    settings.write_text('{"padding_side": "left"}')
    report = check_parity(TaskModel(bert, TASKS["text-classification"]), tmp_path / "out")
    mates = report.batch_mates
    assert mates.max_abs > 10 * report.tolerance
    assert caplog.messages == [
        f"BertForSequenceClassification: what it says of a text moves by up to {mates.max_abs:.1e} beside a longer one "
        f"(allowed {report.tolerance:.1e}), which pads it on the left; Session(folder, batch_invariant=True) or "
        "`losparse run --batch-invariant` runs every text alone"
    ]
    alone, beside = two_texts()
    beside = {name: np.stack([np.roll(array[0], 25), array[1]]) for name, array in beside.items()}
    for invariant in (False, True):
        session = Session(tmp_path / "out", threads=1, batch_invariant=invariant)
        moved = np.abs(session.run(alone)["logits"] - session.run(beside)["logits"][:1]).max()
        assert (moved == 0) if invariant else (moved > 10 * report.tolerance)


def test_tokens_are_compared_where_the_folder_puts_them(make_folder):
    """A model of embeddings alone says the same of a token anywhere, so what differs would be another token."""
    for side in ("right", "left"):
        folder = make_folder("token-classification", name=side)
        folder.edit(lambda data, side=side: data.update(padding_side=side), "tokenizer_config.json")
        session = Session(folder.path, threads=1)
        text, mate = session.encode("a b"), session.encode("c d e f g")
        assert compare_with_mates(session, [text], mate).max_abs == 0


def vectors(*rows: list[float]) -> np.ndarray:
    """One text a row, of one token."""
    return np.array(rows)[:, None, :]


def test_agreement_of_vectors_by_hand():
    """Of three texts at 0, 30 and 90 degrees the middle one is moved to 60: then the last is nearest to it."""
    angles = np.radians([[0, 30, 90], [0, 60, 90]])
    right, moved = (vectors(*([np.cos(a), np.sin(a)] for a in side)) for side in angles)
    mask = np.ones((3, 1), np.int64)
    comparison = VectorComparison("mean")
    comparison.add(moved * 7, right, mask)  # lengths do not count
    found = comparison.agreement()
    assert found.worst_cosine == pytest.approx(np.cos(np.radians(30)), abs=1e-6)
    assert found.mean_cosine == pytest.approx((2 + np.cos(np.radians(30))) / 3, abs=1e-6)
    # The first and the last keep their order of the two others (1), the middle one turns it round (-1).
    assert found.rank_agreement == pytest.approx(1 / 3) and found.texts == 3


REPORT = ParityReport(0.1, 0.1, 1.0, 0.99, 0.5, (), BatchMates(0.31, 0.967, 1.0, 12))


def test_what_is_printed(capsys):
    _print_agreement(REPORT, mixes_texts=True)
    assert capsys.readouterr().out == (
        "an answer depends on the other texts of its run: beside a long text it moves by up to 3.1e-01 (cosine "
        "0.9670). Session(batch_invariant=True) runs every text by itself, and no answer moves. In precision "
        "int8-rows, and in int8-static, other texts change nothing.\n"
    )
    _print_agreement(replace(REPORT, vectors=VectorAgreement(0.999, 0.98, 0.9876, 26)), mixes_texts=False)
    assert capsys.readouterr().out == (
        "vectors of 26 texts: cosine with PyTorch's 0.999000 in the mean and 0.980000 at worst, agreement of which "
        "texts are nearest 0.9876\n"
    )
