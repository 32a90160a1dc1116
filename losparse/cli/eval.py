"""`losparse eval SOURCE --texts FILE --choices FILE`: how good a language model is. Folders need no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from losparse_runtime.contract.files import METADATA_FILE, write_json
from losparse_runtime.evaluation.perplexity import WINDOW
from losparse_runtime.evaluation.rows import RUN_TOKENS

from ..evaluation.evaluate import Evaluation, evaluate
from .output import check_json_target
from .parser import CommandParser, positive_int
from .progress import StderrProgress
from .run import add_session_options, add_variant_option, warn_of_provider


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint, dense or compressed, or ONNX_DIR")
    parser.add_argument(
        "--texts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="measure perplexity on these texts: csv, tsv, jsonl, a hub data set, or txt (a text a line)",
    )
    parser.add_argument("--whole", action="store_true", help="every file of --texts is a .txt that is one text")
    parser.add_argument("--text-column", metavar="NAME", help="column of texts")
    parser.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help=f"most tokens that are read at once (default {WINDOW}, or all positions of a model that has fewer)",
    )
    parser.add_argument(
        "--stride",
        type=positive_int,
        metavar="N",
        help="tokens between the beginnings of two windows; below --window, tokens are predicted with more before them "
        "(default: --window)",
    )
    parser.add_argument(
        "--choices",
        metavar="FILE",
        help="measure accuracy on these questions: csv, tsv or jsonl with context, choices (a list, or columns "
        "choice0, choice1, ...) and answer",
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="most windows and most questions, evenly taken (default: all)"
    )
    parser.add_argument(
        "--run-tokens",
        type=positive_int,
        default=RUN_TOKENS,
        metavar="N",
        help=f"most tokens in one run, padding included: what the memory of logits grows with (default {RUN_TOKENS})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    add_variant_option(parser, "the one that is best here")
    add_session_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, and print a line for texts and one for questions."""
    check_json_target(options.json)
    if (Path(options.source) / METADATA_FILE).is_file():
        warn_of_provider(Path(options.source), options, options.variant)
    found = evaluate(
        options.source,
        options.texts,
        options.choices,
        whole=options.whole,
        text_column=options.text_column,
        window=options.window,
        stride=options.stride,
        limit=options.limit,
        run_tokens=options.run_tokens,
        variant=options.variant,
        providers=options.providers,
        threads=options.threads,
        progress=StderrProgress(verbose=options.verbose),
    )
    for line in shown_lines(found):
        print(line)
    if options.json is not None:
        write_json(options.json, found.to_dict())
    return 0


def shown_lines(found: Evaluation) -> list[str]:
    """Return what a person reads of a measurement."""
    lines = []
    if found.perplexity is not None:
        texts = found.perplexity
        lines.append(
            f"perplexity {texts.perplexity:.4g} on {texts.counted:,} tokens of {', '.join(found.files)} (windows of "
            f"{texts.window}, stride {texts.stride}): {texts.bits_per_byte:.4f} bits a byte, "
            f"{texts.word_perplexity:.4g} a word, {texts.first:.1%} of tokens first"
        )
    if found.choices is not None:
        asked = found.choices.to_dict()
        plain, long = (_with_error(asked, name) for name in ("accuracy", "accuracy_normalised"))
        lines.append(
            f"accuracy {plain}, by length {long}, on {asked['questions']:,} questions of {found.choices_file} "
            f"(chance {asked['chance']:.1%})"
        )
    return lines


def _with_error(asked: dict[str, float | None], name: str) -> str:
    error = asked[f"{name}_error"]
    return f"{asked[name]:.1%}" + ("" if error is None else f" +- {error:.1%}")
