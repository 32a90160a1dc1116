"""`losparse compress MODEL OUT`: fine-tune a model while compressing it, or compress it as it is, and save it small."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.files import write_json

from ..errors import LosparseError
from ..methods import METHODS, NO_METHOD
from ..pipeline.job import WITHOUT_TRAINING, CompressionJob
from ..pipeline.result import CompressedFolder
from ..pipeline.run import compress_folder
from ..saving.staging import REPORT
from ..training.recipe import Recipe, Training
from ..validation import WrongValueError
from .output import check_json_target
from .parser import PrintSchema, add_dataclass_flags, add_field_flags, given, positive_int
from .progress import StderrProgress
from .summary import print_report

if TYPE_CHECKING:
    from transformers import TrainerCallback

_PARTS = tuple(field.name for field in fields(CompressionJob) if field.name != "recipe")
"""Parts of a job that are options of the same name."""


def add_options(parser: argparse.ArgumentParser, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Add the command's options; those of a recipe are the fields of its dataclasses.

    Args:
        parser: gets them.
        callbacks: more callbacks for the Trainer.
    """
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
    parser.add_argument(
        "--method",
        choices=[*METHODS, NO_METHOD],
        help="how to compress (default losparse); none only fine-tunes, with fewer blocks say",
    )
    add_field_flags(parser, "recipe", Recipe, leave_out=("method", "training"))
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
    _add_data_options(parser)
    add_dataclass_flags(parser, "method", *METHODS.values(), names=tuple(METHODS))
    add_dataclass_flags(parser, "training", Training)
    parser.set_defaults(run=run, callbacks=callbacks)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add files of texts, and how they are read."""
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


def run(options: argparse.Namespace) -> int:
    """Compress, save and print what came of it."""
    job = CompressionJob(recipe=read_recipe(options), **{name: getattr(options, name) for name in _PARTS})
    job.check()
    if job.train is None:
        _refuse_training_flags(options)
    check_json_target(options.json)
    done = compress_folder(job, StderrProgress(verbose=options.verbose), options.callbacks)
    if done is not None:
        print_report(_title(job, done), done.report)
        if options.json is not None:
            write_json(options.json, done.report)
    return 0


def _title(job: CompressionJob, done: CompressedFolder) -> str:
    """Say in one line what was done."""
    took = f"in {done.seconds:.0f} s"
    if job.train is not None:
        return f"{job.out}: {done.steps} steps {took}"
    rows = "" if job.calibration is None else f" on {done.calibration_rows:,} rows of text"
    what = "smaller" if job.recipe.method is None else done.report["recipe"]["method"]["name"]
    return f"{job.out}: {what}{rows} {took}"


def _refuse_training_flags(options: argparse.Namespace) -> None:
    """Refuse flags of a recipe's training that only training has a use for; a recipe file may hold them.

    Raises:
        LosparseError: such a flag is given.
    """
    flags = [name for name in given(options, "recipe") if name == "task"]
    flags += [name for name in given(options, "training") if name not in WITHOUT_TRAINING]
    if flags:
        raise LosparseError(f"{_flag(flags[0])} is for training; leave it out, or add --train FILE")


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
    data |= given(options, "recipe")
    try:
        return Recipe.from_dict(data)
    except WrongValueError as error:
        raise _of_flag(error, options, str(data["method"]["name"])) from None


def _of_flag(error: WrongValueError, options: argparse.Namespace, method: str) -> LosparseError:
    """Return an error of a recipe in the words of the command line, where the value came from a flag."""
    group, _, name = error.path.rpartition(".")
    if name not in given(options, group or "recipe"):
        return error
    flag = _flag(name)
    if not error.unknown:
        said = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda found: _FLAG_OF.get(found[0], found[0]), error.said)
        return LosparseError(f"{flag}{said}" if said[0] == ":" else f"{flag} {said}")
    takes = ", ".join(_flag(field.name) for field in fields(METHODS[method]) if field.init)
    return LosparseError(f"{flag} is not for --method {method}, which takes {takes}; leave it out")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_FLAG_OF = {field.name: _flag(field.name) for kind in (Recipe, Training, *METHODS.values()) for field in fields(kind)}
"""Flags by what a recipe calls them."""
