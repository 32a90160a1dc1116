"""`losparse.json` and `config.json`: what an exported folder says about itself.

The runtime reads the first without torch or transformers; the second is there for transformers and optimum.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import onnx_ir as ir

import losparse
from losparse.layers.factored import FactoredLinear
from losparse.models.signature import padding_token
from losparse_runtime.contract.metadata import DESCRIPTION_KEY, FINGERPRINT_KEY

from ..opening.load import Loaded, class_names, parameter_counts
from ..opening.sentence import Sentences
from ..precision.table import INT8_BITS, INT8_PRODUCTS

FORMAT = 1
EMBEDDING_FORMAT = 3  # of folders whose vectors an older reader would make without their prompt, or too long
NEWER_FORMAT = 2  # of folders that a reader must refuse on some machines, which those of format 1 do not know of

# Fusions of onnxruntime 1.31 that cost time on the CPU provider: as one node, normalisation and sum take several times
# as long. Without them a plain 12 x 768 export is 4-5 % faster in fp32 and 7-8 % in int8 (1 x 16 and 1 x 128, one
# thread, AVX2); our own graphs leave them little to fuse.
SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "BiasGeluFusion")

_PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def describe_model(
    loaded: Loaded,
    model: ir.Model,
    *,
    precision: str,
    weight_bits: int,
    sentences: Sentences | None,
    max_length: int,
    type_ids: bool,
) -> dict[str, Any]:
    """Return the metadata of an export, without its files, fingerprint and parity.

    Args:
        loaded: the PyTorch model.
        model: the finished graph.
        precision: that it is in.
        weight_bits: of a weight in an int8 product, where the precision has such.
        sentences: for feature extraction.
        max_length: tokens a row may have.
        type_ids: whether the tokenizer tells the texts of a pair by token types.
    """
    int8 = precision in INT8_PRODUCTS
    return {
        "format": _format(wide=int8 and weight_bits > INT8_BITS[0], sentences=sentences),
        "task": loaded.task.name,
        "source": _describe_source(loaded),
        "precision": precision,
        **({"weight_bits": weight_bits} if int8 else {}),
        "opset": model.graph.opset_imports[""],
        "ir_version": model.ir_version,
        "inputs": [_describe_value(value) for value in model.graph.inputs],
        "outputs": [_describe_value(value) for value in model.graph.outputs],
        "labels": class_names(loaded.model.config) if loaded.task.names_classes else None,
        "max_length": max_length,
        "type_ids": type_ids,
        "pooling": None if sentences is None else sentences.pooling,
        "normalize": sentences is not None and sentences.normalize,
        **({} if sentences is None else {"embedding": asdict(sentences.embedding)}),
        "session": {"disabled_optimizers": list(SLOW_ON_CPU)},
        "parameters": parameter_counts(loaded.model),
        "versions": package_versions(),
    }


def _format(*, wide: bool, sentences: Sentences | None) -> int:
    """Return the oldest format whose readers do right by a folder; `wide` for int8 weights of more than 7 bits."""
    if sentences is not None and (sentences.embedding.prompt() or sentences.embedding.truncate_dim is not None):
        return EMBEDDING_FORMAT
    return NEWER_FORMAT if wide else FORMAT


def graph_metadata(metadata: Mapping[str, Any], plan_digest: str, fingerprint: str) -> dict[str, str]:
    """Return the entries that go into the graph's own metadata: the file then says what it is without its folder."""
    return {
        FINGERPRINT_KEY: fingerprint,
        DESCRIPTION_KEY: json.dumps(metadata, sort_keys=True),
        "losparse.plan": plan_digest,
        "losparse.source": json.dumps(metadata["source"], sort_keys=True),
        "losparse.task": str(metadata["task"]),
        "losparse.versions": json.dumps(metadata["versions"], sort_keys=True),
    }


def model_config(loaded: Loaded) -> dict[str, Any]:
    """Return the model's configuration for `config.json`, as of a plain model that is not quantised."""
    config: dict[str, Any] = json.loads(loaded.model.config.to_json_string(use_diff=False))
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)  # a path of the machine that exported
    if "pad_token_id" in config:
        config["pad_token_id"] = padding_token(loaded.model.config)  # readers know null alone for none
    config["architectures"] = [type(loaded.model).__name__]
    if config.get("problem_type") is None and not loaded.task.is_problem(None, loaded.model.config.num_labels):
        config["problem_type"] = loaded.task.problem  # the user said it, and readers of this file must know
    return config


def package_versions() -> dict[str, str]:
    """Return the versions of the packages an export depends on."""
    found = {"losparse": losparse.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # onnxruntime-gpu is another distribution of the same package
            continue
    return found


def _describe_source(loaded: Loaded) -> dict[str, Any]:
    config = loaded.model.config
    compressed = any(isinstance(module, FactoredLinear) for module in loaded.model.modules())
    recorded = getattr(config, "quantization_config", None)
    return {
        "model": loaded.name,
        "model_type": config.model_type,
        "architecture": type(loaded.model).__name__,
        "compressed": compressed,
        "method": getattr(recorded, "method", None) if compressed else None,
    }


def _describe_value(value: ir.Value) -> dict[str, Any]:
    assert value.dtype is not None and value.shape is not None, "the trace types its inputs and outputs"
    shape = [axis if isinstance(axis, int) else str(axis.value) for axis in value.shape]
    return {"name": value.name, "dtype": value.dtype.numpy().name, "shape": shape}
