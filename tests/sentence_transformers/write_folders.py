"""Write sentence-transformers folders, and what our exports of them give, for the other environment.

    python tests/sentence_transformers/write_folders.py OUT

Runs where losparse is installed. The models are tiny and random: what is compared is what is done around them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import (
    CALLS,
    CASES,
    CROSS_CALLS,
    CROSS_ENCODER,
    CROSS_ENCODERS,
    CROSS_FILES,
    ENCODER,
    PLAIN,
    QUERY,
    SIMILARITIES,
    SIZE,
    TEXTS,
    flat,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
)

from losparse_export import export_model, trace_model
from losparse_runtime import CrossEncoder, SentenceEncoder, Session

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
COMMON = {
    "vocab_size": 400,
    "hidden_size": SIZE,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def make_tokenizer(*, words: bool, lower: bool = False, ends: str = "[CLS] $A [SEP]") -> PreTrainedTokenizerFast:
    """Train a tokenizer on the texts: of words, or of bytes."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]") if words else models.BPE())
    if words:
        inner.normalizer = normalizers.BertNormalizer(lowercase=lower)
        inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    inner.train_from_iterator(TEXTS, trainer)
    ids = [(token, inner.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pair = f"{ends} $B:1 [SEP]:1"
    inner.post_processor = processors.TemplateProcessing(single=ends, pair=pair, special_tokens=ids)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names)


def write_bases(out: Path) -> None:
    """Write the models that folders are made of."""
    torch.manual_seed(0)
    bert, qwen = BertModel(BertConfig(**COMMON)), Qwen3Config(**COMMON, num_key_value_heads=2, head_dim=8)
    lowered = make_tokenizer(words=True, lower=True)
    for name, model, tokenizer in (
        ("bert", bert, lowered),
        ("cased", bert, make_tokenizer(words=True)),
        ("limited", bert, lowered),
        ("bytes", RobertaModel(RobertaConfig(**COMMON)), make_tokenizer(words=False)),
        ("left", Qwen3Model(qwen), make_tokenizer(words=False, ends="$A [SEP]")),
        ("causal", Qwen3ForCausalLM(qwen), make_tokenizer(words=False, ends="$A [SEP]")),
    ):
        model.save_pretrained(out / name)
        tokenizer.padding_side = "left" if name in ("left", "causal") else "right"
        tokenizer.model_max_length = 12 if name == "limited" else 64
        tokenizer.save_pretrained(out / name)


def write_rankings(out: Path) -> None:
    """Write cross-encoders, whose weights are the same, their exports, and how those rank the texts."""
    torch.manual_seed(0)
    base, tokenizer = BertForSequenceClassification(BertConfig(**COMMON, num_labels=1)), make_tokenizer(words=True)
    traces: list[Any] = []

    def tracer(model: Any) -> Any:
        if not traces:
            traces.append(trace_model(model))
        return traces[0].clone()

    for name, said in CROSS_ENCODERS.items():
        folder = out / "folders" / name
        base.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **said}))
        for file, content in CROSS_FILES.get(name, {}).items():
            (folder / file).write_text(json.dumps(content))
        export_model(folder, out / "onnx" / name, tracer=tracer)
        ranked = Session(out / "onnx" / name, threads=1).rank(QUERY, TEXTS, batch_size=4)
        np.savez(out / f"{name}.npz", [each.index for each in ranked], [each.score for each in ranked])
        print(f"{name}: {ranked[0].score:.3f} to {ranked[-1].score:.3f}", flush=True)


def write_for_pytorch(out: Path, name: str) -> None:
    """Put the weights of a folder beside what its export says to sentence-transformers, in the place of the graph."""
    target = Path(shutil.copytree(out / "onnx" / name, out / "exported" / name))
    (target / "model.onnx").unlink()
    shutil.copyfile(out / "folders" / name / "model.safetensors", target / "model.safetensors")


def write_calls(out: Path) -> None:
    """Write what the classes that stand for theirs give."""
    encoder = SentenceEncoder(out / "onnx" / ENCODER, threads=1)
    for number, (method, options) in enumerate(CALLS):
        np.savez(out / f"call-{number}.npz", *flat(getattr(encoder, method)(**options)))
    cross = CrossEncoder(out / "onnx" / CROSS_ENCODER, threads=1)
    for number, (method, options) in enumerate(CROSS_CALLS):
        np.savez(out / f"cross-{number}.npz", *flat(getattr(cross, method)(**options)))
    vectors, others = encoder.encode(TEXTS), encoder.encode_query(TEXTS)
    for name in SIMILARITIES:
        encoder.similarity_fn_name = name
        both = encoder.similarity(vectors, others[:3]), encoder.similarity_pairwise(vectors, others)
        np.savez(out / f"similarity-{name}.npz", *both)


def main() -> None:
    """Write the folder of every case, its export and the vectors of its calls."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    write_bases(out / "bases")
    traces: dict[str, Any] = {}
    for case in CASES:

        def tracer(model: Any, *, base: str = case.base) -> Any:
            if base not in traces:
                traces[base] = trace_model(model)
            return traces[base].clone()

        folder = Path(shutil.copytree(out / "bases" / case.base, out / "folders" / case.name))
        for name, content in {**PLAIN, **case.files}.items():
            if content is not None:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(json.dumps(content))
        export_model(folder, out / "onnx" / case.name, task="feature-extraction", tracer=tracer)
        session = Session(out / "onnx" / case.name, threads=1)
        vectors = [session.embed(TEXTS, batch_size=4, **call) for call in case.calls]
        np.savez(out / f"{case.name}.npz", *vectors)
        write_for_pytorch(out, case.name)
        print(f"{case.name}: {vectors[0].shape}", flush=True)
    write_rankings(out)
    write_calls(out)


if __name__ == "__main__":
    main()
