"""`losparse inspect DIR`: what the layers of a checkpoint or an ONNX folder store. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from losparse_runtime.contract.files import METADATA_FILE, write_json

from ..errors import LosparseError
from ..saving.contents import FolderContents, StoredLayer, inspect_folder
from .output import check_json_target, human_bytes, print_table

_PIVOTS = {None: "", "out": " (pivot outputs)", "in": " (pivot inputs)"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="checkpoint (compressed or dense) or ONNX folder")
    parser.add_argument("--reasons", action="store_true", help="of an ONNX folder: why each layer has its form")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    check_json_target(options.json)
    contents = inspect_folder(options.folder)
    if options.reasons and not (options.folder / METADATA_FILE).is_file():
        raise LosparseError(f"--reasons is for an ONNX folder, and '{options.folder}' is a checkpoint; leave it out")
    _print(options.folder, contents)
    if len(contents.variants) > 1:
        _print_variants(contents)
    if options.reasons:
        _print_reasons(contents)
    if options.json is not None:
        write_json(options.json, contents.to_dict())
    return 0


def _print(folder: Path, contents: FolderContents) -> None:
    columns = ["layer", "shape", "rank", "kept", "parameters", "share"]
    planned = contents.kind == "ONNX folder"
    rows = [_row(layer) + ([layer.lowering or "-"] if planned else []) for layer in contents.layers]
    print_table(f"{folder}: {contents.kind}", columns + (["lowering"] if planned else []), rows)
    totals = contents.to_dict()
    stored, dense, share = (totals[key] for key in ("layer_parameters", "layer_dense_parameters", "layer_share"))
    if share is not None:
        untouched = sum(layer.is_dense for layer in contents.layers)
        note = f", {untouched} of {len(contents.layers)} left dense" if untouched else ""
        print(f"layers: {stored:,} of {dense:,} parameters ({share:.1%}){note}")
    if contents.coverage is not None:
        print(contents.coverage.line)
        if contents.coverage.warning is not None:
            print(contents.coverage.warning)
    print(f"model: {contents.model_parameters:,} parameters")
    if contents.precision is not None:
        bits = "" if contents.weight_bits is None else f", weights of {contents.weight_bits} bits"
        tables = "" if contents.embeddings is None else f", embeddings in {contents.embeddings}"
        print(f"precision: {contents.precision}{bits}{tables}")
    print(f"files: {contents.file_bytes:,} bytes ({human_bytes(contents.file_bytes)})")
    total = contents.file_bytes or 1
    parts = [f"{name} {size:,} ({size / total:.1%})" for name, size in contents.parts.to_dict().items()]
    print(f"bytes: {', '.join(parts)}")
    if contents.tokenizer_bytes:
        print(
            f"beside them the tokenizer: {contents.tokenizer_bytes:,} bytes ({human_bytes(contents.tokenizer_bytes)})"
        )


def _print_variants(contents: FolderContents) -> None:
    """Print what is known of every form: one column of times for each call that one of them was timed by."""
    calls = sorted({call for variant in contents.variants for call in variant.times or {}})
    rows = [
        [
            variant.name,
            variant.file,
            f"{variant.bytes:,}",
            variant.difference,
            variant.rightness,
            *(f"{times[call]:.2f}" if call in times else "-" for call in calls),
        ]
        for variant in contents.variants
        for times in [variant.times or {}]
    ]
    columns = ["variant", "file", "bytes", "off PyTorch", "accuracy", *(f"ms, {call}" for call in calls)]
    print_table("variants; a file that several share counts in each", columns, rows, left=(0, 1))


def _print_reasons(contents: FolderContents) -> None:
    """Print the plan's reasons, once for layers that have the same."""
    groups: dict[str, list[str]] = {}
    for layer in contents.layers:
        lines = [f"  {layer.lowering}: {layer.reason}", *(f"  not {f}: {w}" for f, w in (layer.refused or {}).items())]
        groups.setdefault("\n".join(lines), []).append(layer.name)
    for reasons, names in groups.items():
        print(f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""), reasons, sep="\n")


def _row(layer: StoredLayer) -> list[str]:
    spec = layer.spec
    kept = f"{spec.kept} {'rows' if spec.axis == 'out' else 'columns'}" if layer.factored else "-"
    rank = f"{spec.rank}{_PIVOTS[spec.pivot_side]}{' (shared v)' if spec.v_of else ''}" if layer.factored else "-"
    if layer.heads is not None:
        kept += f", heads {layer.heads.live} of {layer.heads.of}, {layer.heads.width(spec)} wide"
    if layer.is_dense:
        rank, kept = "-", "dense"
    size = f"{spec.out_features}x{spec.in_features}"
    return [layer.name, size, rank, kept, f"{spec.parameters:,}", f"{layer.share:.1%}"]
