"""Write the folder of an export: the graph, what stands beside it, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from losparse import __version__
from losparse_runtime.contract.config import CONFIG_FILE, GENERATION_FILE
from losparse_runtime.contract.files import record_files, write_json, write_metadata
from losparse_runtime.contract.folder import MODEL_GRAPH, Folder
from losparse_runtime.contract.variant import PLAN_FILE

from ..opening.load import Loaded
from ..planning.plan import Plan
from ..precision.base import INT8_BITS
from ..target import CPU, Target
from .assets import copy_tokenizer, longest_text, match_tokenizers, settle_length
from .metadata import describe_model, generation_config, graph_metadata, model_config
from .model import EXTERNAL_FROM, save_model
from .sentence import write_sentence_files


def write_folder(
    folder: Path,
    loaded: Loaded,
    graph: ir.Model,
    plan: Plan,
    *,
    target: Target = CPU,
    external_from: int = EXTERNAL_FROM,
    precision: str = "fp32",
    weight_bits: int = INT8_BITS[0],
    embeddings: str | None = None,
) -> Folder:
    """Write everything but the result of the comparison, which is made with what is written here.

    Returns:
        What the folder holds, as written; its `parity` is None, and only `Session(folder, unchecked=True)` opens it.
    """
    type_ids, sentences = True, loaded.sentences
    lower_case = sentences is not None and sentences.lower_case
    if loaded.folder is not None and copy_tokenizer(loaded.folder, folder, lower_case=lower_case):
        type_ids = match_tokenizers(loaded.folder, folder, lower_case=lower_case)
    contents = describe_model(
        loaded,
        graph,
        target=target,
        precision=precision,
        weight_bits=weight_bits,
        embeddings=embeddings,
        sentences=sentences,
        max_length=longest_text(loaded, sentences),
        type_ids=type_ids,
    )
    graph.producer_name, graph.producer_version = "losparse", __version__
    graph.metadata_props.clear()
    graph.metadata_props.update(graph_metadata(contents, next(iter(contents.variants)), MODEL_GRAPH, plan.digest()))
    save_model(graph, folder, external_from=external_from)
    write_json(folder / CONFIG_FILE, model_config(loaded))
    if loaded.task.causal:
        write_json(folder / GENERATION_FILE, generation_config(loaded))
    write_json(folder / PLAN_FILE, plan.to_dict())
    settle_length(folder, contents.max_length)
    write_sentence_files(folder, contents, lower_case=lower_case)
    contents = replace(contents, files=record_files(folder))
    write_metadata(folder, contents)
    return contents
