"""`losparse compress MODEL OUT`: fine-tune a model while compressing it, and save the small checkpoint.

Without --train nothing is trained: see `one_shot`.

MODEL --drop blocks (--keep-layers)--> shallower --compress (--method) and fine-tune--> compact --save--> OUT
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from losparse_runtime.contract.progress import Progress
from losparse_runtime.contract.task import TASKS

from ..data.examples import Examples, relabel, split_examples
from ..data.loading import load_examples
from ..data.tasks.registry import DEFAULT_TASK, TASK_DATA, find_data
from ..errors import LosparseError
from ..methods import METHODS, NO_METHOD
from ..models.choices import KeepLayersBy, KeepNeuronsBy
from ..saving.folder import Checkpoint, read_checkpoint, refuse_compressed
from ..saving.source import find_model
from ..saving.staging import check_out, staged_folder
from ..training.recipe import Recipe, Training
from .calibration import check_calibration, read_texts, tokenize_calibration
from .output import check_json_target, write_json
from .parser import PrintSchema, add_dataclass_flags, given, positive_int
from .progress import StderrProgress
from .report import REPORT, Original, count_original, outcome_of, print_report

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..data.tokens import Tokenized
    from ..training.fine_tune import FineTuneResult

_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class _Job:
    """One compression, with everything opened and checked."""

    checkpoint: Checkpoint
    recipe: Recipe
    model: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    parts: tuple[Tokenized, Tokenized]
    calibration: list[dict[str, Any]] | None
    max_length: int
    original: Original


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; those of the method and of training are the fields of their dataclasses."""
    parser.add_argument("model", metavar="MODEL", help="dense model: a folder, or a hub id as owner/name")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help=f"JSON or YAML with any of the keys {', '.join(field.name for field in fields(Recipe))}; method (by its "
        "name) and training are tables of the keys that are said below to be theirs; flags win",
    )
    parser.add_argument(
        "--recipe-schema",
        action=PrintSchema,
        const=Recipe.json_schema,
        help="print the JSON schema of recipe files, by which editors complete and check them, and stop",
    )
    parser.add_argument("--task", choices=tuple(TASK_DATA), help=f"what the model is to do (default {DEFAULT_TASK})")
    parser.add_argument(
        "--method",
        choices=[*METHODS, NO_METHOD],
        help="how to compress (default losparse); none only fine-tunes, with fewer blocks say",
    )
    parser.add_argument("--targets", nargs="+", metavar="PATTERN", help="layers to compress (default: those in blocks)")
    parser.add_argument("--ignore", nargs="+", metavar="PATTERN", help="layers to leave dense")
    parser.add_argument(
        "--keep-layers",
        nargs="+",
        type=int,
        metavar="N",
        help="how many transformer blocks to keep (3), or which ones by number from 0 (0 2 5); default all",
    )
    parser.add_argument(
        "--keep-layers-by",
        choices=get_args(KeepLayersBy),
        help="how a number of blocks is chosen: evenly spaced, or by importance on texts of --train, or without it of "
        "--calibration (default even)",
    )
    parser.add_argument(
        "--keep-neurons",
        type=float,
        metavar="SHARE",
        help="share of the feed-forward neurons of every block to keep, chosen on texts as above; default all",
    )
    parser.add_argument(
        "--keep-neurons-by",
        choices=get_args(KeepNeuronsBy),
        help="error: what the outputs miss least goes, and the rest takes over; norm: small weights and inputs go "
        "(default error)",
    )
    parser.add_argument(
        "--teacher", metavar="MODEL", help="fine-tuned model to imitate; needs --distill-weight or --distill-hidden"
    )
    parser.add_argument(
        "--sequential",
        action=argparse.BooleanOptionalAction,
        help="let layers see the outputs of the compressed ones before them when a one-shot method looks at inputs "
        "(default: where the model allows)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with OUT.partial, where a training was cut off")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if losparse wrote it")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"also write the report ({REPORT} in OUT) to this file"
    )
    data = parser.add_argument_group(
        "data (csv, tsv, jsonl or, for texts alone, txt files; or hub data sets as owner/name[@config][:split])"
    )
    data.add_argument("--train", metavar="F", help="labelled texts to train on; some methods do without (svd, rom)")
    data.add_argument(
        "--calibration",
        metavar="F",
        help="texts that a one-shot method looks at (default: some of --train); also a txt file, a text a line",
    )
    data.add_argument("--validation", metavar="F", help="labelled texts to measure on (default: a part of --train)")
    data.add_argument(
        "--validation-share",
        type=float,
        metavar="S",
        help="share of --train to hold out without --validation (default 0.1)",
    )
    data.add_argument("--text-column", metavar="NAME", help="column of texts, words or questions")
    data.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    data.add_argument("--label-column", metavar="NAME", help="column of labels, tags or answers")
    data.add_argument("--max-length", type=positive_int, metavar="N", help="tokens of a text (default: all positions)")
    add_dataclass_flags(parser, "method", *METHODS.values(), names=tuple(METHODS))
    add_dataclass_flags(parser, "training", Training)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compress, save and print what came of it."""
    from .training import check_work, work_folder

    rank = _rank()
    recipe = read_recipe(options)
    check_calibration(options, recipe)
    if options.train is None:
        from .one_shot import run_one_shot

        return 0 if rank > 0 else run_one_shot(options, recipe)
    if rank > 0:
        return _train_along(options, recipe)
    source = find_model(options.model)
    check_out(options.out, overwrite=options.overwrite, sources=(source,))
    check_json_target(options.json)
    flags = {"resume": options.resume, "overwrite": options.overwrite}
    settings = {**settings_of(options), "recipe": recipe.to_dict()}
    check_work(options.out, settings, **flags)
    progress = StderrProgress(verbose=options.verbose)
    job = _prepare(options, recipe, source, progress)
    with work_folder(options.out, settings, **flags) as work:
        result = _train(options, job, work, progress)
        with progress.stage("writing"):
            report = _save(options, job, result)
    print_report(f"{options.out}: {report['steps']} steps in {report['seconds']:.0f} s", report)
    if options.json is not None:
        write_json(options.json, report)
    return 0


def _rank() -> int:
    """Return which process of a distributed training this is, as torchrun and accelerate number them; 0 if alone."""
    rank = os.environ.get("RANK")
    if rank is not None and not torch.cuda.is_available():
        # Without it accelerate takes the processes for strangers where there is no GPU, and each trains on its own.
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    return int(rank or 0)


def _train_along(options: argparse.Namespace, recipe: Recipe) -> int:
    """Be one of the other processes of a distributed training: take part in it, and leave all writing to the first."""
    from .training import work_path

    silent = StderrProgress(verbose=False, draws=False, every_s=None)
    job = _prepare(options, recipe, find_model(options.model), silent)
    _train(options, job, work_path(options.out), silent)
    return 0


def _train(options: argparse.Namespace, job: _Job, work: Path, progress: Progress) -> FineTuneResult:
    from .training import train_model

    return train_model(
        job.model,
        job.tokenizer,
        job.parts,
        job.recipe,
        work,
        progress,
        teacher=job.teacher,
        calibration=job.calibration,
        sequential=options.sequential,
        resume=options.resume,
    )


def read_recipe(options: argparse.Namespace) -> Recipe:
    """Put the flags over the recipe file, and that over the defaults.

    Raises:
        LosparseError: a value is out of range, or a flag is not one of the method's.
    """
    data = (Recipe() if options.recipe is None else Recipe.read(options.recipe)).to_dict()
    if options.method is not None and options.method != data["method"]["name"]:
        data["method"] = {"name": options.method}
    data["method"] |= given(options, "method")
    data["training"] |= given(options, "training")
    keys = ("task", "targets", "ignore", "keep_layers_by", "keep_neurons", "keep_neurons_by")
    data |= {key: value for key in keys if (value := getattr(options, key)) is not None}
    if options.keep_layers is not None:
        data["keep_layers"] = options.keep_layers[0] if len(options.keep_layers) == 1 else options.keep_layers
    recipe = Recipe.from_dict(data)
    weight, hidden = recipe.training.distill_weight, recipe.training.distill_hidden
    if (max(weight, hidden) > 0) != (options.teacher is not None):
        raise LosparseError(
            "distillation needs both --teacher MODEL and --distill-weight or --distill-hidden above 0, got "
            f"{'no teacher' if options.teacher is None else 'a teacher'} and weights {weight:g} and {hidden:g}"
        )
    return recipe


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what beside the recipe determines the result, as JSON values."""
    names = (
        "model",
        "teacher",
        "train",
        "validation",
        "validation_share",
        "calibration",
        "sequential",
        "text_column",
        "pair_column",
        "label_column",
    )
    return {name: getattr(options, name) for name in (*names, "max_length")}


def _prepare(options: argparse.Namespace, recipe: Recipe, source: Path, progress: Progress) -> _Job:
    """Open and check everything: the cheap first, the model before the data is tokenised, all before training."""
    from ..training.adapters import require_lora
    from ..training.batches import calibration_batches, importance_batches
    from ..training.distill import pair_blocks
    from ..training.opening import fit_padding, load_model, load_tokenizer, quiet_transformers, text_length
    from ..training.problems import check_problem, labels_of, warn_of_order
    from .shrink import shrink_on_texts, shrink_unseen
    from .training import check_schedule, default_save_steps, tokenize_parts

    require_lora(recipe.training, recipe.method)
    task = TASKS[recipe.task]
    checkpoint = read_checkpoint(source)
    refuse_compressed(checkpoint)
    known = labels_of(checkpoint, task)
    if known is None and options.teacher is not None:
        known = labels_of(read_checkpoint(find_model(options.teacher)), task)
    with progress.stage("reading the data"):
        train, validation = _load_data(options, recipe, known)
        texts = read_texts(options, task)
    quiet_transformers()
    with progress.stage("opening the model"):
        tokenizer = load_tokenizer(source, pads=not find_data(task).full_rows)
        check_problem(checkpoint, task, train.label_names)
        warn_of_order(checkpoint, task, train.label_names)
        model = load_model(checkpoint, task, train.label_names, recipe.training.seed)
        fit_padding(model, tokenizer)
        original = count_original(model)
        shrink_unseen(model, recipe)
        teacher = _open_teacher(options.teacher, recipe, train, tokenizer)
    length = text_length(model, tokenizer, options.max_length, teacher)
    parts = tokenize_parts(train, validation, tokenizer, task, length, progress)
    calibration = None
    if texts is not None:
        rows = tokenize_calibration(texts, tokenizer, task, length, recipe.training, progress)
        calibration = calibration_batches(rows, tokenizer, recipe.training, task=task)
    shrink_on_texts(
        model,
        recipe,
        progress,
        few=lambda: importance_batches(parts[0], tokenizer, task=task),
        batches=lambda: calibration_batches(parts[0], tokenizer, recipe.training, task=task),
    )
    if teacher is not None and recipe.training.distill_hidden > 0:
        pair_blocks(model, teacher)
    steps = check_schedule(recipe, len(parts[0]))
    if recipe.training.save_steps is None:
        recipe = replace(recipe, training=replace(recipe.training, save_steps=default_save_steps(steps)))
    return _Job(checkpoint, recipe, model, teacher, tokenizer, parts, calibration, length, original)


def _load_data(options: argparse.Namespace, recipe: Recipe, known: tuple[str, ...] | None) -> tuple[Examples, Examples]:
    """Read both parts; labels are those of the training part, in the order of a model that knows them."""
    columns = {name: getattr(options, name) for name in ("text_column", "pair_column", "label_column")}
    train = load_examples(options.train, task=recipe.task, split="train", **columns)
    train = relabel(train, known) if known is not None else train
    if options.validation is None:
        share = _VALIDATION_SHARE if options.validation_share is None else options.validation_share
        return split_examples(train, share, recipe.training.seed)
    if options.validation_share is not None:
        raise LosparseError("--validation-share is the share of --train to hold out; leave it out with --validation")
    names = train.label_names or None
    return train, load_examples(options.validation, task=recipe.task, label_names=names, split="validation", **columns)


def _open_teacher(
    name: str | None, recipe: Recipe, train: Examples, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | None:
    """Open the model to imitate; see `check_teacher`."""
    from ..training.opening import fit_padding, load_model
    from ..training.problems import check_problem, check_teacher

    if name is None:
        return None
    task, head = TASKS[recipe.task], recipe.training.distill_weight > 0
    checkpoint = read_checkpoint(find_model(name))
    if head:
        check_problem(checkpoint, task, train.label_names, role="teacher")
    check_teacher(checkpoint, task, train.label_names, len(tokenizer), head=head)
    teacher = load_model(checkpoint, task, train.label_names, recipe.training.seed, head=head)
    return fit_padding(teacher, tokenizer)


def _save(options: argparse.Namespace, job: _Job, result: FineTuneResult) -> dict[str, Any]:
    """Write checkpoint and report; returns the report."""
    from ..models.report import dense_report
    from .training import save_model

    compression = result.compression or dense_report(job.model)
    with staged_folder(options.out, overwrite=options.overwrite) as folder:
        save_model(job.model, job.tokenizer, folder)
        report = {
            "format": 1,
            **settings_of(options),
            "recipe": job.recipe.to_dict(),
            "max_length": job.max_length,
            "examples": {"train": len(job.parts[0]), "validation": len(job.parts[1])},
            "truncated": {"train": job.parts[0].truncated, "validation": job.parts[1].truncated},
            "steps": result.steps,
            "seconds": result.seconds,
            "metrics": result.metrics,
            **outcome_of(job.model, folder, job.checkpoint, job.original, compression),
        }
        write_json(folder / REPORT, report)
    return report
