"""What sentence-transformers reads of an embedding folder, which then makes the vectors that `Session.embed` makes.

    modules.json                        Transformer, Pooling, and Normalize where vectors are scaled
    1_Pooling/config.json               how tokens become one vector
    config_sentence_transformers.json   prompts, numbers of a vector that are kept, similarity
    sentence_bert_config.json           how long a text may be

Names are those that every release since 3 reads, not those that the latest writes: older ones know no others, and
text-embeddings-inference neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from losparse import __version__
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.contract.files import TOKENIZER_FILE, write_json
from losparse_runtime.contract.folder import MODEL_GRAPH, Folder
from losparse_runtime.contract.task import TASKS

from ..opening.sentence import CONFIG_FILE, MODULES_FILE, SWITCHES, TRANSFORMER_FILES

_POOLING = "1_Pooling"
_NORMALIZE = "2_Normalize"


def write_sentence_files(folder: Path, contents: Folder, *, lower_case: bool) -> None:
    """Write the files; none for other tasks, where no pooling is recorded, or where there is no tokenizer.

    Args:
        folder: that is written, with its tokenizer.
        contents: what it holds.
        lower_case: whether texts are lowered before the tokenizer reads them.
    """
    if contents.pooling is None or not TASKS[contents.task].embeds or not (folder / TOKENIZER_FILE).is_file():
        return
    kinds = {"": "Transformer", _POOLING: "Pooling", **({_NORMALIZE: "Normalize"} if contents.normalize else {})}
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds.items())
    ]
    for name in kinds:
        (folder / name).mkdir(exist_ok=True)
    write_json(folder / MODULES_FILE, modules)
    write_json(folder / TRANSFORMER_FILES[0], {"max_seq_length": contents.max_length, "do_lower_case": lower_case})
    settings = contents.embedding or Embedding()
    write_json(folder / _POOLING / "config.json", _pooling(contents, settings))
    if contents.normalize:
        write_json(folder / _NORMALIZE / "config.json", {})
    write_json(folder / CONFIG_FILE, _config(settings))


def _pooling(contents: Folder, settings: Embedding) -> dict[str, Any]:
    """Return the configuration of the pooling: with switches where they can say it, in one fixed order each once."""
    assert contents.pooling is not None, "there is a pooling to write"
    (output,) = TASKS[contents.task].outputs
    size = next(spec for spec in contents.graphs[MODEL_GRAPH].outputs if spec.name == output).shape[-1]
    modes = contents.pooling.split("+")
    ordered = [mode for mode in SWITCHES.values() if mode in modes]
    if ordered == modes:
        how: dict[str, Any] = {switch: mode in modes for switch, mode in SWITCHES.items()}
    else:
        how = {"pooling_mode": modes}
    return {"word_embedding_dimension": size, **how, "include_prompt": settings.include_prompt}


def _config(settings: Embedding) -> dict[str, Any]:
    cut = {} if settings.truncate_dim is None else {"truncate_dim": settings.truncate_dim}
    return {
        "__version__": {"losparse": __version__},
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt_name,
        "similarity_fn_name": settings.similarity,
        **cut,
    }
