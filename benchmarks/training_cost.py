"""What compressing costs while training: time per step and peak memory, against plain fine-tuning.

    python benchmarks/training_cost.py --model MINILM_DIR [--threads 1] [--steps 30]

Every variant takes full optimizer steps (forward, backward, clipping, AdamW, and what the method's callback does), in
turns with the others, on the same random token ids; its median is over its steps. Memory is the peak of a process of
its own, above what it held before its model was loaded.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _memory import peak_bytes, reset_peak
from _results import locked, machine, versions
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from losparse import LoSparse, StructuredPruning, compress_
from losparse.methods import LPAF, Method

RESULTS = Path(__file__).parent / "results" / "training_cost.json"
BATCH, LENGTH = 32, 32
LIMITS = {"time": 1.5, "memory": 1.6}

VARIANTS: dict[str, Method | None] = {
    "dense": None,
    "losparse": LoSparse(keep=0.2, low_rank=0.02, structure="foldable"),
    "losparse, paper's rows and low rank": LoSparse(keep=0.2, low_rank=0.05, structure="rows"),
    "losparse with PLATON's uncertainty": LoSparse(
        keep=0.2, low_rank=0.02, structure="foldable", uncertainty_beta=0.85
    ),
    "pruning": StructuredPruning(keep=0.2, structure="foldable"),
    "lpaf": LPAF(keep=0.2),
}


def stepper(folder: Path, method: Method | None, steps: int) -> Callable[[], float]:
    """Return a function that takes one optimizer step and returns its loss."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).train()
    if method is not None:
        compress_(model, method)
    callbacks = method.callbacks() if method is not None else ()
    arguments = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none", max_steps=steps)
    state, control = TrainerState(max_steps=steps), TrainerControl()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    ids = torch.randint(1000, 20000, (BATCH, LENGTH))
    labels = torch.arange(BATCH) % 2

    def tell(event: str) -> None:
        for callback in callbacks:
            getattr(callback, event)(arguments, state, control, model=model, optimizer=optimizer)

    tell("on_train_begin")

    def step() -> float:
        tell("on_step_begin")
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        tell("on_pre_optimizer_step")
        optimizer.step()
        tell("on_optimizer_step")
        optimizer.zero_grad()
        state.global_step += 1
        tell("on_step_end")
        return float(loss.detach())

    return step


def memory(name: str, folder: Path) -> int:
    """Return the peak of three steps in this process, in bytes above what it held before."""
    before = peak_bytes()
    gc.collect()
    reset_peak()
    step = stepper(folder, VARIANTS[name], 100)
    for _ in range(3):
        step()
    return peak_bytes() - before


def times(folder: Path, steps: int) -> dict[str, list[float]]:
    """Return the seconds of every step of every variant, taken in turns."""
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    running = {name: stepper(folder, method, 2 * steps) for name, method in VARIANTS.items()}
    for number in range(steps + 2):
        for name, step in running.items():
            started = time.perf_counter()
            loss = step()
            if not loss < 10.0:
                raise SystemExit(f"{name}: loss {loss}")
            if number >= 2:  # the first ones allocate the optimizer's moments
                found[name].append(time.perf_counter() - started)
    return found


def main() -> None:
    """Measure everything, or the memory of one variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--memory-of", choices=list(VARIANTS), help="measure this here and print it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of is not None:
        print(json.dumps(memory(args.memory_of, args.model)))
        return
    seconds = times(args.model, args.steps)
    rows: list[dict[str, Any]] = []
    for name in VARIANTS:
        command = [sys.executable, *sys.argv, "--memory-of", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peak = int(done.stdout.splitlines()[-1])
        ratios = [own / dense for own, dense in zip(seconds[name], seconds["dense"], strict=True)]
        rows.append(
            {"variant": name, "step_ms": 1e3 * median(seconds[name]), "time_ratio": median(ratios), "peak": peak}
        )
    for row in rows:
        row["memory_ratio"] = row["peak"] / rows[0]["peak"]
        print(f"{row['variant']}: {row['step_ms']:.0f} ms, {row['time_ratio']:.2f}x, {row['memory_ratio']:.2f}x memory")
    with locked(RESULTS) as data:
        data |= {"rows": rows, "batch": BATCH, "length": LENGTH, "steps": args.steps, "threads": args.threads}
        data |= {"limits": LIMITS, "machine": machine(), "versions": versions()}


if __name__ == "__main__":
    main()
