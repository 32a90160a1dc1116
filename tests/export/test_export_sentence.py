"""What a sentence-transformers folder says: what is followed, and what is refused in words.

`make test-sentence-transformers` compares the vectors with those of sentence-transformers itself.
"""

from __future__ import annotations

import json
import logging

import pytest

from losparse.errors import LosparseError
from losparse_export import export_model
from losparse_export.folder.assets import check_reading
from losparse_export.opening.load import Loaded
from losparse_export.opening.sentence import Sentences, read_sentences
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.contract.task import TASKS

from .builders import build_model

OLD, NEW = "sentence_transformers.models.", "sentence_transformers.sentence_transformer.modules."
TRANSFORMER = {"type": f"{OLD}Transformer", "path": ""}
POOLING = {"type": f"{OLD}Pooling", "path": "1_Pooling"}
NORMALIZE = {"type": f"{OLD}Normalize", "path": "2_Normalize"}
NONE = {"query": "", "document": ""}


def write(folder, modules=(TRANSFORMER, POOLING), pooling=None, own=None, config=None):
    """Write the files of a sentence-transformers folder."""
    files = {
        "modules.json": list(modules),
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True} if pooling is None else pooling,
        "sentence_bert_config.json": own,
        "config_sentence_transformers.json": config,
    }
    for name, content in files.items():
        if content is not None:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text(json.dumps(content))
    return folder


SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        *(({switch: True, "pooling_mode_mean_tokens": mode == "mean"}, mode) for switch, mode in SWITCHES.items()),
        *(({"pooling_mode": mode}, mode) for mode in SWITCHES.values()),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "cls+mean"),
        ({"pooling_mode": ["weightedmean", "max"]}, "weightedmean+max"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
        ({"pooling_mode_mean_tokens": False}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling(tmp_path, settings, expected):
    assert read_sentences(write(tmp_path, pooling=settings)).pooling == expected


@pytest.mark.parametrize("kinds", [(OLD, OLD), (NEW, "sentence_transformers.base.modules.normalize.")])
def test_modules_of_old_and_new_names(tmp_path, kinds):
    modules = [TRANSFORMER, {**POOLING, "type": f"{kinds[0]}Pooling"}, {**NORMALIZE, "type": f"{kinds[1]}Normalize"}]
    found = read_sentences(write(tmp_path, [*modules, {"type": f"{OLD}Dropout", "path": "3_Dropout"}]))
    assert (found.pooling, found.normalize) == ("mean", True)


def test_a_plain_folder_and_none(tmp_path):
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')  # read only beside modules.json
    assert read_sentences(tmp_path) == read_sentences(None) == Sentences("mean", False, Embedding(), None, False)
    assert read_sentences(tmp_path, causal=True).pooling == "lasttoken"


def test_prompts_and_the_length_of_a_vector(tmp_path):
    config = {
        "prompts": {"query": "query: ", "other": None},
        "default_prompt_name": "query",
        "truncate_dim": 16,
        "similarity_fn_name": "dot",
    }
    write(tmp_path, pooling={"pooling_mode": "cls", "include_prompt": False}, config=config)
    prompts = {"query": "query: ", "document": "", "other": ""}
    assert read_sentences(tmp_path).embedding == Embedding(prompts, "query", False, 16, "dot")


def test_without_such_settings_every_folder_has_two_empty_prompts(tmp_path):
    write(tmp_path, config={"similarity_fn_name": "maxsim", "prompts": None, "truncate_dim": None})
    assert read_sentences(tmp_path).embedding == Embedding(NONE)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_how_a_text_is_read(tmp_path, name):
    write(tmp_path)
    (tmp_path / f"sentence_{name}_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    found = read_sentences(tmp_path)
    assert (found.max_length, found.lower_case) == (9, True)


@pytest.mark.parametrize("limit", [None, 0, "long", True])
def test_a_limit_that_is_none(tmp_path, limit):
    assert read_sentences(write(tmp_path, own={"max_seq_length": limit})).max_length is None


def module(kind, path="2_Other"):
    return {"type": kind, "path": path}


REFUSED = {
    "dense": ({"modules": [TRANSFORMER, POOLING, module(f"{OLD}Dense")]}, "has a module 'Dense'"),
    "layer norm": ({"modules": [TRANSFORMER, POOLING, module(f"{OLD}LayerNorm")]}, "has a module 'LayerNorm'"),
    "layers weighted": ({"modules": [TRANSFORMER, module(f"{OLD}WeightedLayerPooling"), POOLING]}, "'WeightedLayerPo"),
    "static": ({"modules": [module(f"{NEW}StaticEmbedding", "")]}, "has a module 'StaticEmbedding'"),
    "words": ({"modules": [module(f"{OLD}WordEmbeddings", "0_W"), POOLING]}, "has a module 'WordEmbeddings'"),
    "bag": ({"modules": [module(f"{OLD}BoW", "0_B")]}, "has a module 'BoW'"),
    "convolution": ({"modules": [TRANSFORMER, module(f"{OLD}CNN"), POOLING]}, "has a module 'CNN'"),
    "recurrent": ({"modules": [TRANSFORMER, module(f"{OLD}LSTM"), POOLING]}, "has a module 'LSTM'"),
    "router": ({"modules": [module(f"{OLD}Router", "")]}, "has a module 'Router'"),
    "images": ({"modules": [module(f"{OLD}CLIPModel", "")]}, "has a module 'CLIPModel'"),
    "code of its own": ({"modules": [module("custom.Transformer", ""), POOLING]}, "has a module 'custom.Transformer'"),
    "no pooling": ({"modules": [TRANSFORMER, NORMALIZE]}, "has the modules Transformer, Normalize in this order"),
    "no module": ({"modules": []}, "has the modules none in this order"),
    "order": ({"modules": [TRANSFORMER, NORMALIZE, POOLING]}, "has the modules Transformer, Normalize, Pooling in"),
    "two": ({"modules": [TRANSFORMER, POOLING, POOLING]}, "has the modules Transformer, Pooling, Pooling in"),
    "older place": ({"modules": [{**TRANSFORMER, "path": "0_Transformer"}, POOLING]}, "keeps its transformer in '0_Tr"),
    "pooling": ({"pooling": {"pooling_mode": "median"}}, "pools by 'median'"),
    "poolings": ({"pooling": {"pooling_mode": ["mean", "median"]}}, "pools by ['mean', 'median']"),
    "pooling switch": (
        {"pooling": {"pooling_mode_median_tokens": True}},
        "sets 'pooling_mode_median_tokens' of its pooling",
    ),
    "later pooling": ({"pooling": {"pooling_mode": "mean", "novel": 1}}, "sets 'novel' of its pooling"),
    "later setting": ({"own": {"novel": 1}}, "sets 'novel'"),
    "sparse": ({"config": {"model_type": "SparseEncoder"}}, "is a SparseEncoder"),
    "late interaction": ({"config": {"model_type": "MultiVectorEncoder"}}, "is a MultiVectorEncoder"),
    "task": ({"own": {"transformer_task": "fill-mask"}}, "sets 'transformer_task'"),
    "chat": (
        {"own": {"modality_config": {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}}},
        "sets 'modality_config'",
    ),
    "output": ({"own": {"module_output_name": "sentence_embedding"}}, "sets 'module_output_name'"),
    "reading": ({"own": {"processing_kwargs": {"text": {"add_special_tokens": False}}}}, "sets 'processing_kwargs'"),
    "tokenizer": ({"own": {"tokenizer_args": {"padding_side": "left"}}}, "sets 'tokenizer_args'"),
    "query length": ({"own": {"query_length": 8}}, "sets 'query_length'"),
    "configuration": ({"own": {"config_kwargs": {"hidden_act": "relu"}}}, "sets 'config_kwargs'"),
    "model": ({"own": {"model_args": {"num_hidden_layers": 1}}}, "sets 'num_hidden_layers' of 'model_args'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_followed_is_said_and_no_pooling_recorded(tmp_path, caplog, case):
    settings, said = REFUSED[case]
    with caplog.at_level(logging.WARNING):
        assert read_sentences(write(tmp_path, **settings)).pooling is None
    assert said in caplog.text and "which is not exported: no pooling is recorded" in caplog.text


def test_settings_that_change_no_number_are_not_spoken_of(tmp_path, caplog):
    own = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "token_embeddings",
        "model_kwargs": {"add_pooling_layer": False, "dtype": "float32"},
        "unpad_inputs": False,
    }
    with caplog.at_level(logging.WARNING):
        assert read_sentences(write(tmp_path, own=own)).pooling == "mean"
    assert caplog.text == ""


def test_normalising_of_tokens_is_not_followed(tmp_path, caplog):
    write(tmp_path, [TRANSFORMER, POOLING, NORMALIZE])
    (tmp_path / "2_Normalize").mkdir()
    (tmp_path / "2_Normalize" / "config.json").write_text('{"module_input_name": "token_embeddings"}')
    with caplog.at_level(logging.WARNING):
        assert read_sentences(tmp_path).pooling is None
    assert "scales 'token_embeddings'" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"config": {"default_prompt_name": "q"}},
            "default_prompt_name must be one of the prompts 'query', 'document'",
        ),
        ({"config": {"prompts": ["a"]}}, "prompts must be texts by name"),
        ({"config": {"prompts": {"query": 3}}}, "prompts must be texts by name"),
        ({"config": {"truncate_dim": 0}}, "truncate_dim must be a whole number of 1 or more, got 0"),
        ({"config": {"truncate_dim": True}}, "truncate_dim must be a whole number of 1 or more, got True"),
        ({"modules": [TRANSFORMER, {**POOLING, "path": "../1_Pooling"}]}, "a path must be inside the folder"),
        ({"modules": [TRANSFORMER, {**POOLING, "path": "3_Pooling"}]}, "3_Pooling/config.json: missing"),
    ],
)
def test_settings_that_cannot_be_right(tmp_path, settings, message):
    with pytest.raises(LosparseError, match=message):
        read_sentences(write(tmp_path / "folder", **settings))


def test_damaged_modules_file(tmp_path):
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(LosparseError, match=r"modules\.json: cannot be read as JSON"):
        read_sentences(tmp_path)


def test_the_transformer_alone_of_an_older_folder_is_refused(tmp_path):
    write(tmp_path, [{**TRANSFORMER, "path": "0_Transformer"}, POOLING])
    (tmp_path / "0_Transformer").mkdir()
    with pytest.raises(LosparseError, match=r"0_Transformer: is the transformer of .* says what is made of its tokens"):
        read_sentences(tmp_path / "0_Transformer")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config_sentence_transformers.json", '{"default_prompt_name": "other"}', "default_prompt_name must be one of"),
        ("config_sentence_transformers.json", '{"prompts": {"query": 1}}', "prompts must be texts by name"),
        ("modules.json", "[", "cannot be read as JSON"),
        ("tokenizer_config.json", "{", "cannot be read as JSON"),
    ],
)
def test_settings_that_do_not_do_are_refused_before_the_trace(tmp_path, file, content, said):
    def not_traced(*_, **__):
        raise AssertionError("refused before the trace")

    model = build_model("mpnet", factored=False)
    model.save_pretrained(write(tmp_path / "model"))
    (tmp_path / "model" / file).write_text(content)
    with pytest.raises(LosparseError, match=f"{file}: {said}"):
        export_model(tmp_path / "model", tmp_path / "out", tracer=not_traced)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_followed_is_said_once(tmp_path, caplog):
    folder = write(tmp_path, [TRANSFORMER, POOLING, {"type": f"{OLD}Dense", "path": "2_Dense"}])
    loaded = Loaded(build_model("mpnet", factored=False), TASKS["feature-extraction"], "tiny", folder)
    check_reading(loaded)
    assert loaded.sentences.pooling is None
    assert sum("no pooling is recorded" in message for message in caplog.messages) == 1
