"""The configuration of a model, by which it is built without its weights."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from losparse.errors import LosparseError


def read_config(model: str | Path) -> PretrainedConfig:
    """Read a configuration.

    Args:
        model: a folder with a config.json, or a hub id.

    Raises:
        LosparseError: there is none, or no architecture that transformers knows.
    """
    if Path(model).exists() and not (Path(model) / "config.json").is_file():
        raise LosparseError(f"'{model}' has no config.json; an estimate needs one, and nothing else of a model")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model, trust_remote_code=False)
        return config
    except (OSError, ValueError, KeyError) as error:
        raise LosparseError(f"'{model}': no configuration can be read: {str(error).splitlines()[0]}") from error
