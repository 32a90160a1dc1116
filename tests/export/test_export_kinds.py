"""Which class opens a folder, what is refused before any weight is read, and what a model needs to be told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from losparse.errors import LosparseError
from losparse.methods import LoSparse
from losparse_export import TaskModel, estimate_model, trace_model
from losparse_export.folder.metadata import model_config
from losparse_export.opening.kinds import opening_class
from losparse_export.opening.load import load_model
from losparse_export.parity.gate import make_feeds
from losparse_export.parity.lengths import Case
from losparse_export.tracing.trace import sample_inputs
from losparse_runtime.contract.task import TASKS

from .builders import build_model

_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "vocab_size": 40,
    "max_position_embeddings": 16,
}
_TOLD = {**_BART, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 1}
_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
}
_TEXT = {**_VISION, "vocab_size": 40, "max_position_embeddings": 16, "projection_dim": 16}
_SOUND = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}

REFUSED: list[tuple[str, str, dict[str, Any], str]] = [
    ("ViTModel", "ViT", _VISION, "ViTModel reads pixel_values, must read the token ids of a text; models of images"),
    ("CLIPVisionModel", "CLIPVision", _VISION, "CLIPVisionModel reads pixel_values"),
    ("CLIPModel", "CLIP", {"text_config": _TEXT, "vision_config": _VISION}, "CLIPModel reads images beside texts"),
    ("Wav2Vec2ForSequenceClassification", "Wav2Vec2", _SOUND, r"Wav2Vec2For\w+ reads input_values"),
    ("WhisperForAudioClassification", "Whisper", _TOLD, r"WhisperFor\w+ reads input_features"),
    ("MarianMTModel", "Marian", _TOLD, "MarianMTModel generates text, which is not exported yet; for the vectors of"),
    ("T5ForConditionalGeneration", "T5", _T5, r"T5For\w+ generates text, which is not exported yet"),
]


@pytest.mark.parametrize(("architecture", "family", "sizes", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_no_model_of_texts_is_refused_by_its_name(tmp_path, architecture, family, sizes, message):
    model = getattr(transformers, architecture)(getattr(transformers, f"{family}Config")(**sizes))
    model.save_pretrained(tmp_path)
    for task in [None] if "generates" in message else [None, "feature-extraction"]:
        with pytest.raises(LosparseError, match=message) as caught:
            load_model(tmp_path, task)
        with pytest.raises(LosparseError, match=message):
            load_model(model, task)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("family", "sizes"), [row[1:3] for row in REFUSED[:4]])
def test_an_estimate_refuses_them_too(family, sizes):
    config = getattr(transformers, f"{family}Config")(**sizes)
    with pytest.raises(LosparseError, match=r"reads (pixel_values|input_values|images beside)"):
        estimate_model(config, LoSparse(keep=0.5, low_rank=0.1))


@pytest.mark.parametrize(
    ("architecture", "model_type", "task", "opened"),
    [
        ("T5EncoderModel", "t5", "feature-extraction", "T5EncoderModel"),
        ("T5ForConditionalGeneration", "t5", "feature-extraction", "T5EncoderModel"),
        ("UMT5Model", "umt5", "feature-extraction", "UMT5EncoderModel"),
        ("SiglipTextModel", "siglip_text_model", "feature-extraction", "SiglipTextModel"),
        ("BertForMaskedLM", "bert", "feature-extraction", "AutoModel"),
        ("BartForSequenceClassification", "bart", "feature-extraction", "AutoModel"),
        ("T5ForSequenceClassification", "t5", "text-classification", "AutoModelForSequenceClassification"),
        ("T5EncoderModel", "bert", "feature-extraction", "AutoModel"),  # of another type than the folder says
        ("../BertModel", "bert", "feature-extraction", "AutoModel"),
        (None, "bert", "feature-extraction", "AutoModel"),
    ],
)
def test_the_class_that_opens(architecture, model_type, task, opened):
    kind = opening_class(TASKS[task], architecture, {"model_type": model_type})
    assert kind is getattr(transformers, opened)


def test_an_encoder_of_a_family_with_decoders_opens(tmp_path):
    """AutoModel asked its folder for the weights of a decoder."""
    torch.manual_seed(0)
    model = transformers.T5EncoderModel(transformers.T5Config(**_T5)).eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.model) is transformers.T5EncoderModel and loaded.task is TASKS["feature-extraction"]
    ids = torch.arange(6).reshape(1, 6)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).last_hidden_state, model(ids).last_hidden_state)


def test_a_head_that_reads_the_end_token_finds_it_once_in_every_row():
    """Without one, BART has nothing to classify, and torch said so only deep inside the trace."""
    model = transformers.BartForSequenceClassification(transformers.BartConfig(**_BART, pad_token_id=1, eos_token_id=2))
    wrapped = TaskModel(model, TASKS["text-classification"])
    for case in (Case(3, 12, padded=True), Case(2, 1, padded=False), Case(2, 7, padded=False)):
        feeds = make_feeds(wrapped, case)
        ends = feeds["input_ids"] == 2
        assert (ends.sum(1) == 1).all()
        assert (ends.argmax(1) == feeds["attention_mask"].sum(1) - 1).all()
        assert not ((feeds["input_ids"] == 1) & (feeds["attention_mask"] == 1)).any()
        outputs = wrapped.reference({name: torch.from_numpy(array) for name, array in feeds.items()})
        assert torch.isfinite(outputs["logits"]).all()
    assert ((sample_inputs(wrapped, batch=2, length=7)["input_ids"] == 2).sum(1) == 1).all()
    features = TaskModel(model.model, TASKS["feature-extraction"])
    assert features.signature.vocabulary.end is None


@pytest.mark.parametrize("written", [None, -1])
def test_the_padding_token_that_only_the_tokenizer_knows(tmp_path, written):
    """The first LLaMAs write -1 for none: the export died after the trace, on a temporary file that nobody knows."""
    source = tmp_path / "llama"
    model = build_model("llama", factored=False)
    model.config.pad_token_id = written
    model.save_pretrained(source)
    assert load_model(source).model.config.pad_token_id is None  # no tokenizer, no padding
    words = Tokenizer(WordLevel({"<unk>": 0, "<pad>": 7, "word": 2}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        source
    )
    assert json.loads((source / "config.json").read_text())["pad_token_id"] == written
    assert load_model(source).model.config.pad_token_id == 7


def test_a_model_in_memory_whose_padding_token_is_negative():
    """It has none: that of the made-up texts is a token, and what is written is what readers know."""
    model = build_model("llama", factored=False)
    model.config.pad_token_id = -1
    loaded = load_model(model, "feature-extraction")
    feeds = make_feeds(TaskModel(loaded.model, loaded.task), Case(2, 9, padded=True))
    assert (feeds["input_ids"][feeds["attention_mask"] == 0] == 0).all() and feeds["input_ids"].min() == 0
    assert model_config(loaded)["pad_token_id"] is None


def test_a_model_in_memory_without_a_padding_token_is_told_the_way_out():
    model = build_model("llama", factored=False)
    model.config.pad_token_id = None
    message = r"^LlamaFor\w+ fails in PyTorch itself on .* of 2 rows of 7 tokens: Cannot handle.*; set pad_token_id in"
    with pytest.raises(LosparseError, match=message):
        trace_model(TaskModel(model, TASKS["text-classification"]))


def test_a_model_of_characters_has_no_vocabulary():
    """CANINE takes code points; its chunks of a length that Python counts out cannot be in one graph."""
    sizes = {**_SOUND, "max_position_embeddings": 64, "local_transformer_stride": 8, "downsampling_rate": 2}
    model = transformers.CanineForSequenceClassification(transformers.CanineConfig(**sizes))
    with pytest.raises(LosparseError, match=r"^CanineFor\w+: its code depends on the number of tokens itself"):
        trace_model(TaskModel(model, TASKS["text-classification"]))
