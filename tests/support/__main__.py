"""Make the support matrix: `python -m tests.support [NAME ...] [--jobs 2] [--out FILE] [--page FILE]`.

Every architecture runs in a process of its own, with a limit of time. Rows are kept as they come, so that a run that
was stopped goes on where it was; `--again` runs all. At the end one JSON file and one page are written.
"""

from __future__ import annotations

import os

# Before torch is imported: tiny tensors gain nothing from threads.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.onnx._internal.exporter._core  # imported by the first export; here, before processes are forked
import transformers

from .models import architectures
from .page import write_page
from .steps import COLUMNS, run, write

_LIMIT_S = 900
_ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; returns 1 where a cell is wrong or a crash."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    names = options.names or list(architectures())
    options.rows.mkdir(parents=True, exist_ok=True)
    todo = [name for name in names if options.again or not _row_file(options.rows, name).is_file()]
    for name, seconds in _run_all(todo, options.rows, options.jobs):
        cells = _read(options.rows, name)["cells"]
        print(f"{seconds:4.0f} s  {name:24s} " + "  ".join(f"{k}: {v[:60]}" for k, v in cells.items()), flush=True)
    rows = [_read(options.rows, name) for name in names]
    if not options.names:
        write_page(rows, options.out, options.page)
    faults = [f"{row['name']} {k}: {v}" for row in rows for k, v in row["cells"].items() if v[:5] in ("wrong", "crash")]
    print(f"{len(rows)} architectures, {len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.support", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; all by default")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run also what has a row")
    parser.add_argument("--rows", type=Path, default=_ROOT / "build" / "support")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks" / "results" / "support.json")
    parser.add_argument("--page", type=Path, default=_ROOT / "docs" / "support.md")
    return parser


def _row_file(rows: Path, name: str) -> Path:
    return rows / f"{name}.json"


def _read(rows: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(_row_file(rows, name).read_text(encoding="utf-8"))
    return data


def _one(name: str, rows: Path) -> None:
    """Run one architecture, write its row, and leave: what it prints goes to a file beside the row."""
    log = os.open(rows / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    write(run(architectures()[name]), _row_file(rows, name))


def _run_all(names: Sequence[str], rows: Path, jobs: int) -> Iterator[tuple[str, float]]:
    """Run architectures, some at a time; yields each with its seconds once its row is there.

    Processes are forked from this one, which has imported everything and computed nothing: no thread is lost by it.
    """
    queue = list(names)
    running: dict[str, tuple[BaseProcess, float]] = {}
    while queue or running:
        while queue and len(running) < jobs:
            name = queue.pop(0)
            process = get_context("fork").Process(target=_one, args=(name, rows))
            process.start()
            running[name] = (process, time.monotonic())
        time.sleep(0.2)
        for name, (process, began) in list(running.items()):
            took = time.monotonic() - began
            if process.is_alive() and took > _LIMIT_S:
                process.kill()
                process.join()
            if not process.is_alive():
                del running[name]
                if process.exitcode:
                    _died(name, rows, process.exitcode)
                yield name, took


def _died(name: str, rows: Path, code: int) -> None:
    """Write the row of a process that did not: what ends a process is a crash of every column."""
    cells = dict.fromkeys(COLUMNS, f"crash: the process ended with {code}")
    row = {"name": name, "model_type": "", "class": "", "task": None, "parameters": 0, "cells": cells, "seconds": 0}
    write(row, _row_file(rows, name))


if __name__ == "__main__":
    sys.exit(main())
