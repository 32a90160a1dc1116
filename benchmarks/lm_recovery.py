"""What a language model loses by compression without training, and what a short training gives back.

    python benchmarks/lm_recovery.py --model SMOLLM2_DIR --data DATA_DIR --work WORK_DIR [--keep 0.6] [--steps 300]

Three rows: the dense model; compressed by `rom`; and compressed and then trained for some steps, on the same texts as
it was calibrated on, to imitate the dense model's distributions token by token (with --lora-rank, adapters on the
factors alone). Each is measured by `losparse.evaluate`:

    WikiText-2    perplexity of the test set as one text, in windows of 512 side by side; the kind of some of the texts
    speeches      the same of presidents' speeches from 1990 on; those before are among the texts that are learned
    sentences     accuracy: which of four sentences goes on with a speech from 1990 on; the three others are from there

DATA_DIR holds wikitext2-raw-train1mb, wikitext2-raw-test and us-speeches. A row that is in the results is not run
again. On a machine with a GPU the training uses it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _results import has_row, locked, machine, versions

from losparse import ROM, CompressionJob, Recipe, Training, compress_folder, evaluate

RESULTS = Path(__file__).parent / "results" / "lm_recovery.json"
FIRST_HELD_OUT = 1990
QUESTIONS, CONTEXT, OTHERS = 400, 3, 3
"""Questions, sentences in front of each, and wrong sentences of each."""


def speeches(data: Path) -> Iterator[tuple[int, str]]:
    """Yield the year and the text of every speech."""
    for file in sorted((data / "us-speeches").glob("*/*.txt")):
        yield int(file.name[:4]), file.read_bytes().decode("latin-1").strip()


def articles(file: Path) -> list[str]:
    """Return the articles of a WikiText file, which begin with lines like " = Title = "."""
    parts = re.split(r"(?m)^(?= = [^=])", file.read_text(encoding="utf-8"))
    return [part.strip() for part in parts if part.strip()]


def questions(texts: list[str]) -> list[dict[str, Any]]:
    """Return questions whose right choice is the sentence that follows in a text, the same ones every time."""
    choose = random.Random(0)
    sentences = [re.split(r"(?<=[.!?])\s+", " ".join(text.split())) for text in texts]
    places = [(text, at) for text, all_of in enumerate(sentences) for at in range(CONTEXT, len(all_of))]
    usual = [place for place in places if 40 <= len(sentences[place[0]][place[1]]) <= 200]
    rows = []
    for text, at in choose.sample(usual, QUESTIONS):
        others = [sentences[t][a] for t, a in choose.sample([each for each in usual if each[0] != text], OTHERS)]
        choices = [sentences[text][at], *others]
        choose.shuffle(choices)
        context = " ".join(sentences[text][at - CONTEXT : at])
        rows.append({"context": context, "choices": choices, "answer": choices.index(sentences[text][at])})
    return rows


def write_texts(data: Path, work: Path) -> None:
    """Write the texts to learn from, those to measure on, and the questions."""
    learned = articles(data / "wikitext2-raw-train1mb" / "train-first1MB.txt")
    learned += [text for year, text in speeches(data) if year < FIRST_HELD_OUT]
    held_out = [text for year, text in speeches(data) if year >= FIRST_HELD_OUT]
    kept = articles(data / "wikitext2-raw-train1mb" / "heldout-100kB.txt")
    for name, texts in (("train", learned), ("speeches", held_out), ("validation", kept)):
        (work / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (work / "questions.jsonl").write_text("\n".join(map(json.dumps, questions(held_out))))


def measured(source: Path, data: Path, work: Path) -> dict[str, Any]:
    """Return the figures of a row."""
    test = data / "wikitext2-raw-test" / "wikitext2-raw-test.joined.txt"
    wiki = evaluate(source, test, whole=True)
    other = evaluate(source, work / "speeches.jsonl", work / "questions.jsonl")
    assert wiki.perplexity is not None and other.perplexity is not None and other.choices is not None
    return {
        "wikitext2": wiki.perplexity.to_dict(),
        "speeches": other.perplexity.to_dict(),
        "sentences": other.choices.to_dict(),
    }


def compressed(args: argparse.Namespace, steps: int) -> dict[str, Any]:
    """Compress the model, and train it for some steps if there are any; returns the figures of its row."""
    out = args.work / f"keep-{args.keep:g}-steps-{steps}-lora-{args.lora_rank if steps else 0}"
    training = Training(batch_size=args.batch, seed=args.seed)
    files: dict[str, Any] = {"calibration": args.work / "train.jsonl"}
    if steps:
        training = Training(
            max_steps=steps,
            learning_rate=args.learning_rate,
            batch_size=args.batch,
            distill_weight=1.0,
            distill_temperature=1.0,
            lora_rank=args.lora_rank,
            bf16=torch.cuda.is_available(),
            seed=args.seed,
        )
        files |= {"train": args.work / "train.jsonl", "validation": args.work / "validation.jsonl"}
        files["teacher"] = args.model
    recipe = Recipe(task="causal-lm", method=ROM(keep=args.keep), training=training)
    if not out.is_dir():
        resumed = (args.work / f"{out.name}.partial").is_dir()
        compress_folder(CompressionJob(args.model, out, recipe, max_length=args.max_length, resume=resumed, **files))
    report = json.loads((out / "losparse_report.json").read_text())
    figures = {name: report[name] for name in ("seconds", "steps", "metrics")}
    return figures | {"training": asdict(training), **measured(out, args.data, args.work)}


def main() -> None:
    """Run the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--keep", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    write_texts(args.data, args.work)
    model = {"model": args.model.resolve().name, "seed": args.seed}
    of_training = {"steps": args.steps, "tokens": args.batch * args.max_length, "lora_rank": args.lora_rank}
    rows: list[dict[str, Any]] = [
        {**model, "form": "dense", "keep": 1.0},
        {**model, "form": "rom", "keep": args.keep},
        {**model, "form": "rom, then distilled", "keep": args.keep, "learning_rate": args.learning_rate, **of_training},
    ]
    for key, steps in zip(rows, (None, 0, args.steps), strict=True):
        with locked(RESULTS) as data:
            there = has_row(data, key)
        if there:
            continue
        row = {**key, **(measured(args.model, args.data, args.work) if steps is None else compressed(args, steps))}
        print(key["form"], *(f"{name} {row[name]['perplexity']:.2f}" for name in ("wikitext2", "speeches")), flush=True)
        with locked(RESULTS) as data:
            data.setdefault("rows", []).append(row)
            data |= {"versions": versions(), "machine": machine()}


if __name__ == "__main__":
    main()
