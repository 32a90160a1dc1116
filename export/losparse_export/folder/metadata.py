"""`losparse.json` and `config.json`: what an exported folder says about itself.

The runtime reads the first without torch or transformers; the second is there for transformers and optimum.
"""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx_ir as ir

from losparse import __version__
from losparse.layers.embedding import CompactTable
from losparse.layers.factored import FactoredLinear
from losparse.models.signature import padding_token
from losparse_runtime.contract.folder import DESCRIPTION_KEY, FINGERPRINT_KEY, MODEL_GRAPH, Folder, Source
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.task import TASK_FIELD
from losparse_runtime.contract.tensors import State, TensorSpec, present_of
from losparse_runtime.contract.variant import MODEL_FILE, ModelFile, Variant

from ..opening.load import Loaded, class_names, parameter_counts
from ..opening.sentence import Sentences, read_activation
from ..passes.cache import CACHED_ATTENTION
from ..precision.table import PRECISION_TABLE
from ..target import Target
from .model import fingerprint

_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def describe_model(
    loaded: Loaded,
    model: ir.Model,
    *,
    target: Target,
    precision: str,
    weight_bits: int,
    embeddings: str | None,
    sentences: Sentences | None,
    max_length: int,
    type_ids: bool,
) -> Folder:
    """Return what the folder of an export holds, without its files and the comparison with PyTorch.

    Args:
        loaded: the PyTorch model.
        model: the finished graph.
        target: the kind of machine it is for.
        precision: that it is in.
        weight_bits: of a weight in an int8 product, where the precision has such.
        embeddings: "int8" where tables were rounded to it, else None.
        sentences: for feature extraction.
        max_length: tokens a row may have.
        type_ids: whether the tokenizer tells the texts of a pair by token types.
    """
    variant = Variant(
        precision=precision,
        weight_bits=weight_bits if PRECISION_TABLE[precision].weight_bits else None,
        opset=model.graph.opset_imports[""],
        ir_version=model.ir_version,
        models={MODEL_GRAPH: ModelFile(MODEL_FILE, fingerprint(model))},
        disabled_optimizers=target.disabled_optimizers,
        provider=target.provider,
        mixes_texts=PRECISION_TABLE[precision].mixes_texts,
        embeddings=embeddings,
    )
    return Folder(
        task=loaded.task.name,
        source=_describe_source(loaded),
        graphs={MODEL_GRAPH: describe_graph(model)},
        variants={variant.own_name: variant},
        files={},
        labels=tuple(class_names(loaded.model.config)) if loaded.task.names_classes else None,
        max_length=max_length,
        type_ids=type_ids,
        pooling=None if sentences is None else sentences.pooling,
        normalize=sentences is not None and sentences.normalize,
        embedding=None if sentences is None else sentences.embedding,
        parameters=parameter_counts(loaded.model),
        versions=package_versions(),
    )


def describe_graph(model: ir.Model) -> Signature:
    """Return what a graph takes and gives."""
    given = [
        value for value in model.graph.inputs if value.const_value is None
    ]  # others have a value unless one is fed
    inputs, outputs = (tuple(map(_describe_value, values)) for values in (given, model.graph.outputs))
    return Signature(inputs, outputs, _states(model))


def graph_metadata(folder: Folder, variant: str, graph: str, plan_digest: str) -> dict[str, str]:
    """Return the entries that go into a graph's own metadata: the file then says what it is without its folder."""
    description = folder.description(variant, graph)
    return {
        FINGERPRINT_KEY: description["fingerprint"],
        DESCRIPTION_KEY: json.dumps(description, sort_keys=True),
        "losparse.plan": plan_digest,
        "losparse.source": json.dumps(description["source"], sort_keys=True),
        "losparse.task": folder.task,
        "losparse.versions": json.dumps(description["versions"], sort_keys=True),
    }


def model_config(loaded: Loaded) -> dict[str, Any]:
    """Return the model's configuration for `config.json`, as of a plain model that is not quantised."""
    config: dict[str, Any] = json.loads(loaded.model.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    config.pop(TASK_FIELD, None)  # losparse.json says the task
    config.pop("_name_or_path", None)  # a path of the machine that exported
    if "pad_token_id" in config:
        config["pad_token_id"] = padding_token(loaded.model.config)  # readers know null alone for none
    config["architectures"] = [type(loaded.model).__name__]
    if config.get("problem_type") is None and not loaded.task.is_problem(None, loaded.model.config.num_labels):
        config["problem_type"] = loaded.task.problem  # the user said it, and readers of this file must know
    activation = read_activation(loaded.folder) if loaded.task.scores_texts else None
    if activation is not None:
        config["sentence_transformers"] = {**config.get("sentence_transformers", {}), "activation_fn": activation}
    return config


def generation_config(loaded: Loaded) -> dict[str, Any]:
    """Return how a language model generates by default: which tokens begin, end and pad a text, and what is sampled."""
    config: dict[str, Any] = json.loads(loaded.model.generation_config.to_json_string(use_diff=True))
    config.pop("_from_model_config", None)
    return config


def package_versions() -> dict[str, str]:
    """Return the versions of the packages an export depends on."""
    found = {"losparse": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # onnxruntime-gpu is another distribution of the same package
            continue
    return found


def _describe_source(loaded: Loaded) -> Source:
    config = loaded.model.config
    compressed = any(isinstance(module, FactoredLinear | CompactTable) for module in loaded.model.modules())
    recorded = getattr(config, "quantization_config", None)
    return Source(
        model=loaded.name,
        model_type=config.model_type,
        architecture=type(loaded.model).__name__,
        compressed=compressed,
        method=getattr(recorded, "method", None) if compressed else None,
    )


def _states(model: ir.Model) -> tuple[State, ...]:
    """Pair what a graph takes of earlier tokens with what it gives to later ones, by their names."""
    given = {value.name: value for value in model.graph.outputs}
    pairs = ((value, given.get(present_of(value.name or ""))) for value in model.graph.inputs)
    return tuple(
        State(str(past.name), str(present.name), in_place=_is_in_place(present))
        for past, present in pairs
        if present is not None
    )


def _is_in_place(present: ir.Value) -> bool:
    """Tell whether an operator writes into the buffer that it reads, where both are bound to one."""
    producer = present.producer()
    return producer is not None and producer.op_type == CACHED_ATTENTION


def _describe_value(value: ir.Value) -> TensorSpec:
    assert value.dtype is not None and value.shape is not None, "the trace types its inputs and outputs"
    # torch writes a sum of two axes with spaces.
    shape = tuple(axis if isinstance(axis, int) else str(axis.value).replace(" ", "") for axis in value.shape)
    return TensorSpec(str(value.name), value.dtype.numpy().name, shape)
