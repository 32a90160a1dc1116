"""All of losparse in a minute, from installed packages: compress, export, check and run a tiny model.

Usage: smoke.py OUT    writes OUT/model, OUT/small and OUT/onnx
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from losparse import SVD, CompressionJob, Recipe, compress_folder
from losparse_export import check_folder, export_model
from losparse_runtime import Session

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film", "dull"]


def make_model(folder: Path) -> None:
    """Write a tiny classifier with its tokenizer."""
    words = {word: number for number, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=32, **special).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def main(out: Path) -> None:
    """Go the whole way."""
    make_model(out / "model")
    done = compress_folder(CompressionJob(out / "model", out / "small", Recipe(method=SVD(keep=0.5))))
    report = export_model(out / "small", out / "onnx")
    checked = check_folder(out / "onnx", reference=out / "small")
    assert checked.passed, checked.differences
    (answer,) = Session(out / "onnx", threads=1).classify(["a fine film"])
    print(f"{done.compression.share:.0%} of the layers left, parity {report.parity.max_abs:.1e}, says {answer.label}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
