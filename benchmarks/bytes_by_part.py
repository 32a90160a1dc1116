"""Where the bytes of an exported model are: embeddings, layers, heads, norms; dense and compressed, fp32 and int8.

    python benchmarks/bytes_by_part.py --model NAME=FOLDER [NAME=FOLDER ...] [--keep 0.2] [--random-weights]

FOLDER is a dense model. It is exported as it is, and with random factors in the default structure of the method, of
which the sizes are those of trained ones. Every export has passed its comparison with PyTorch: all-mpnet-base-v2
itself does not in int8, so its sizes are taken with `--random-weights`, of a model made from its configuration. Rows of
a model are written again when it is measured again.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path
from typing import Any

import torch
from _results import locked, versions
from transformers import AutoConfig, AutoModel, PreTrainedModel

from losparse import LoSparse
from losparse.methods import method_to_dict
from losparse.random_factors import random_factors_
from losparse.saving.parts import tokenizer_bytes
from losparse_export import export_model
from losparse_export.tracing.trace import TraceOnce

RESULTS = Path(__file__).parent / "results" / "bytes.json"


def measure_form(name: str, form: str, model: PreTrainedModel) -> list[dict[str, Any]]:
    """Export one model in fp32 and int8, its tables in float and int8; returns a row of each."""
    rows, tracer = [], TraceOnce()
    for precision, embeddings in itertools.product(("fp32", "int8"), ("float", "int8")):
        with tempfile.TemporaryDirectory() as folder:
            report = export_model(
                model, Path(folder) / "out", precision=precision, embeddings=embeddings, tracer=tracer
            )
        found = {"model": name, "form": form, "precision": precision, "embeddings": embeddings}
        rows.append({**found, "bytes": report.parts.to_dict(), "total": report.parts.total})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Export every model in every form, and add up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--random-weights", action="store_true", help="take of FOLDER its configuration alone")
    args = parser.parse_args()
    method = LoSparse(keep=args.keep)
    for given in args.model:
        name, _, folder = given.partition("=")
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(folder)
        model = AutoModel.from_config(config) if args.random_weights else AutoModel.from_pretrained(folder)
        model.eval()
        rows = measure_form(name, "dense", model)
        random_factors_(model, method)
        rows += measure_form(name, f"keep {args.keep:g}", model)
        with locked(RESULTS) as data:
            data["rows"] = [row for row in data.get("rows", []) if row["model"] != name] + rows
            data.setdefault("tokenizers", {})[name] = tokenizer_bytes(Path(folder))
            data |= {"method": method_to_dict(method), "versions": versions()}


if __name__ == "__main__":
    main()
