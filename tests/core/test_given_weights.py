"""What `save_pretrained` is given as weights is what it saves, and parts of a model open without the others."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import BertForSequenceClassification, T5Config, T5EncoderModel, T5ForConditionalGeneration

from losparse import SVD, compress_
from losparse.saving.outputs import read_record

from .conftest import build_bert


@pytest.mark.parametrize("reopened", [False, True])
def test_a_given_state_dict_is_saved(reopened, tmp_path, caplog):
    """Averaged weights, or those that a distributed trainer has gathered: the model's own may be something else."""
    model = build_bert()
    compress_(model, SVD(keep=0.5))
    if reopened:
        model.save_pretrained(tmp_path / "first")
        model = BertForSequenceClassification.from_pretrained(tmp_path / "first")
    given = {
        name: tensor * 0.5 if tensor.is_floating_point() else tensor for name, tensor in model.state_dict().items()
    }
    with caplog.at_level(logging.WARNING, "losparse"):
        model.save_pretrained(tmp_path / "given", state_dict=dict(given))
    assert "the weights to save were given as state_dict=" in caplog.text
    assert read_record(tmp_path / "given") is None, "the model in memory would give other outputs"
    again = BertForSequenceClassification.from_pretrained(tmp_path / "given").state_dict()
    assert again.keys() == given.keys() and all(torch.equal(again[name], given[name]) for name in given)


def test_the_models_own_state_dict_is_recorded_like_none(tmp_path):
    model = build_bert()
    compress_(model, SVD(keep=0.5))
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert read_record(tmp_path) is not None


def test_an_encoder_opens_out_of_a_compressed_whole(tmp_path):
    """The class of the encoder passes over the decoder, whose layers are compressed too; and it can be saved again."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    whole = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
    compress_(whole, SVD(keep=0.5))
    whole.save_pretrained(tmp_path / "whole")
    encoder = T5EncoderModel.from_pretrained(tmp_path / "whole").eval()
    encoder.save_pretrained(tmp_path / "encoder")
    again = T5EncoderModel.from_pretrained(tmp_path / "encoder").eval()
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        expected = whole.encoder(ids).last_hidden_state
        assert torch.equal(encoder(ids).last_hidden_state, expected)
        assert torch.equal(again(ids).last_hidden_state, expected)
