"""Folders of one form each become one folder of several, and a folder of several one of fewer."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from losparse.errors import LosparseError
from losparse_runtime.contract.files import METADATA_FILE, read_folder, record_files, write_metadata
from losparse_runtime.contract.folder import MODEL_GRAPH, Folder
from losparse_runtime.contract.records import FileRecord
from losparse_runtime.contract.variant import MODEL_FILE, PLAN_FILE, ModelFile, Variant, data_file

from .model import fingerprint, save_weights
from .shared import share_weights


def join_folders(
    places: Mapping[str, Path], out: Path, files: Mapping[str, str], *, shared_from: int | None, inside: str = ""
) -> Folder:
    """Write one folder of several variants.

    Args:
        places: folders of one variant each, of the same model, by the name that it gets; the first gives what they
            have in common.
        out: an empty folder.
        files: of the graphs, by variant.
        shared_from: bytes from which tensors that several hold are stored once; None to let every file stand alone.
        inside: folder in `out` for graphs and weights; empty for `out` itself.

    Returns:
        What `out` holds.

    Raises:
        LosparseError: two of the folders are not of one model, or a graph is another one once it was written.
    """
    contents = {name: read_folder(place) for name, place in places.items()}
    first, *others = contents.values()
    for other in others:
        _check_same(first, other)
    graphs = {name: ir.load(place / MODEL_FILE) for name, place in places.items()}
    graphs_in = out / inside
    graphs_in.mkdir(exist_ok=True)
    shared = {} if shared_from is None else share_weights(graphs, graphs_in, shared_from=shared_from)
    for name, graph in graphs.items():
        alone = (places[name] / data_file(MODEL_FILE)).is_file()
        save_weights(graph, graphs_in, file=files[name], external=alone)
    _copy_others(next(iter(places.values())), out)
    plans = _copy_plans(places, out)
    variants = {}
    for name, each in contents.items():
        file, *others_of = ((Path(inside) / part).as_posix() for part in (files[name], *shared.get(name, ())))
        variants[name] = _renamed(each, file, tuple(others_of), plans[name])
    joined = replace(first, variants=variants, files=record_files(out))
    for name, variant in variants.items():
        _check_written(out, variant, name)
    write_metadata(out, joined)
    return joined


def _check_same(one: Folder, other: Folder) -> None:
    """Refuse folders that differ in more than their variants and files."""
    if replace(one, variants={}, files={}) != replace(other, variants={}, files={}):
        raise LosparseError("only forms of one model stand in one folder; these say different things of it")


def _renamed(contents: Folder, file: str, shared: tuple[str, ...], plan: str) -> Variant:
    (variant,) = contents.variants.values()
    model = ModelFile(file, variant.models[MODEL_GRAPH].fingerprint, shared)
    return replace(variant, models={MODEL_GRAPH: model}, plan=plan)


def _check_written(folder: Path, variant: Variant, name: str) -> None:
    """Look that a graph is what was compared with PyTorch, weights and all, however they are stored now."""
    model = variant.models[MODEL_GRAPH]
    if fingerprint(ir.load(folder / model.file)) != model.fingerprint:
        raise LosparseError(f"{folder / model.file}: variant {name!r} is not what it was before it was written")


def _copy_others(place: Path, out: Path) -> None:
    """Copy what stands beside a graph: configuration, tokenizer, modules of sentence-transformers."""
    own = {MODEL_FILE, data_file(MODEL_FILE), METADATA_FILE, PLAN_FILE}
    for file in sorted(place.iterdir()):
        if file.is_dir():
            shutil.copytree(file, out / file.name)
        elif file.name not in own:
            shutil.copyfile(file, out / file.name)


def _copy_plans(places: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Copy plans, equal ones once; returns the name of every variant's."""
    known: dict[bytes, str] = {}
    for name, place in places.items():
        content = (place / PLAN_FILE).read_bytes()
        if content not in known:
            known[content] = f"plan-{name}.json" if known else PLAN_FILE
            (out / known[content]).write_bytes(content)
    return {name: known[(place / PLAN_FILE).read_bytes()] for name, place in places.items()}


def keep_variants(folder: Path | str, names: Iterable[str]) -> Folder:
    """Drop all variants of a folder but some, and the files that no other one needs.

    What the folder says of itself is changed in one step: killed at any time, it opens as it was or as it is then. What
    such a call left lying is removed by the next one.

    Args:
        folder: that an export wrote.
        names: of the variants to keep; they stay in the order of the folder.

    Returns:
        What the folder holds now.

    Raises:
        LosparseError: none is named, or one that the folder does not have.
        FolderError: the folder is damaged.
    """
    folder, wanted = Path(folder), list(dict.fromkeys(names))
    contents = read_folder(folder)
    known = ", ".join(contents.variants)
    if not wanted:
        raise LosparseError(f"at least one variant must stay, got none; '{folder}' has {known}")
    unknown = [name for name in wanted if name not in contents.variants]
    if unknown:
        raise LosparseError(f"variants to keep must be some of {known}, which '{folder}' has, got {unknown[0]!r}")
    kept = {name: variant for name, variant in contents.variants.items() if name in wanted}
    needed = _needed(kept)
    files = {name: record for name, record in contents.files.items() if name in needed or not _of_variants(name)}
    result = replace(contents, variants=kept, files=files)
    if result != contents:
        write_metadata(folder, result)
    _remove_others(folder, files)
    return result


def _needed(variants: Mapping[str, Variant]) -> set[str]:
    models = (model for variant in variants.values() for model in variant.models.values())
    return {name for model in models for name in model.names} | {variant.plan for variant in variants.values()}


def _of_variants(name: str) -> bool:
    """Tell whether a file is a graph, weights or a plan, by its name: what a folder has of every variant."""
    name = name.rpartition("/")[2]
    return name.endswith((".onnx", ".onnx.data")) or (name.startswith("plan") and name.endswith(".json"))


def _remove_others(folder: Path, files: Mapping[str, FileRecord]) -> None:
    for file in sorted(folder.rglob("*")):
        if _of_variants(file.name) and file.relative_to(folder).as_posix() not in files:
            file.unlink()
