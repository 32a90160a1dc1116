"""Folders of several variants, put together of folders of one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from losparse_runtime import read_folder
from losparse_runtime.contract.files import record_files, write_metadata


def put_together(out: Path, folders: Mapping[str, Path], **changes: Mapping[str, Any]) -> Path:
    """Write a folder whose variants are the models of others.

    Args:
        out: to be written.
        folders: by name of the variant, a folder of one; everything else comes from the first.
        changes: by name of the variant with "_" for "-", fields of `Variant`.
    """
    first = next(iter(folders.values()))
    shutil.copytree(first, out)
    (out / "model.onnx").unlink()
    variants = {}
    for name, folder in folders.items():
        (variant,) = read_folder(folder).variants.values()
        file = f"model_{name}.onnx"
        shutil.copy(folder / "model.onnx", out / file)
        models = {"model": replace(variant.models["model"], file=file)}
        variants[name] = replace(variant, models=models, **changes.get(name.replace("-", "_"), {}))
    write_metadata(out, replace(read_folder(first), variants=variants, files=record_files(out)))
    return out
