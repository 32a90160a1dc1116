"""`losparse eval SOURCE --texts FILE --choices FILE`: how good a model is. A language model's folder needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losparse_runtime.contract.files import METADATA_FILE, write_json
from losparse_runtime.evaluation.rows import RUN_TOKENS
from losparse_runtime.evaluation.windows import WINDOW

from ..environment import versions
from ..errors import LosparseError
from ..evaluation.evaluate import Evaluation, evaluate, refuse_providers
from .output import check_json_target
from .parser import CommandParser, positive_int, refuse_idle
from .progress import StderrProgress
from .run import add_session_options, add_variant_option, warn_of_provider

_OF_LANGUAGE = ("texts", "whole", "window", "stride", "choices", "limit", "run_tokens")


def add_options(parser: CommandParser) -> None:
    """Add the command's options."""
    parser.add_argument("source", metavar="SOURCE", help="checkpoint, dense or compressed, or ONNX_DIR")
    _add_language_options(parser.add_argument_group("language models"))
    labelled = parser.add_argument_group("models of labelled texts")
    labelled.add_argument(
        "--data",
        metavar="FILE",
        help="measure the metrics of the model's task on these labelled texts: csv, tsv, jsonl or a hub data set; of "
        "an ONNX_DIR all variants are measured, with standard errors",
    )
    labelled.add_argument("--pair-column", metavar="NAME", help="column of second texts or contexts")
    labelled.add_argument("--label-column", metavar="NAME", help="column of labels")
    parser.add_argument("--text-column", metavar="NAME", help="column of texts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    add_variant_option(parser, "the one that is best here")
    add_session_options(parser)
    parser.set_defaults(run=run)


def _add_language_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--texts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="measure perplexity on these texts: csv, tsv, jsonl, a hub data set, or txt (a text a line)",
    )
    group.add_argument("--whole", action="store_true", help="every file of --texts is a .txt that is one text")
    group.add_argument(
        "--window",
        type=positive_int,
        metavar="N",
        help=f"most tokens that are read at once (default {WINDOW}, or all positions of a model that has fewer)",
    )
    group.add_argument(
        "--stride",
        type=positive_int,
        metavar="N",
        help="tokens between the beginnings of two windows; below --window, tokens are predicted with more before them "
        "(default: --window)",
    )
    group.add_argument(
        "--choices",
        metavar="FILE",
        help="measure accuracy on these questions: csv, tsv or jsonl with context, choices (a list, or columns "
        "choice0, choice1, ...) and answer",
    )
    group.add_argument(
        "--limit", type=positive_int, metavar="N", help="most windows and most questions, evenly taken (default: all)"
    )
    group.add_argument(
        "--run-tokens",
        type=positive_int,
        metavar="N",
        help=f"most tokens in one run, padding included: what the memory of logits grows with (default {RUN_TOKENS})",
    )


def run(options: argparse.Namespace) -> int:
    """Measure, and print a line for texts, one for questions, or one a model of labelled texts."""
    check_json_target(options.json)
    if (Path(options.source) / METADATA_FILE).is_file():
        warn_of_provider(Path(options.source), options, options.variant)
    if options.data is not None:
        found = _measure_labelled(options)
        lines = labelled_lines(found["data"])
    else:
        refuse_idle(options, ["pair_column", "label_column"], ["data"])
        measured = _measure_language(options)
        found, lines = measured.to_dict(), shown_lines(measured)
    for line in lines:
        print(line)
    if options.json is not None:
        write_json(options.json, found)
    return 0


def _measure_language(options: argparse.Namespace) -> Evaluation:
    return evaluate(
        options.source,
        options.texts,
        options.choices,
        whole=options.whole,
        text_column=options.text_column,
        window=options.window,
        stride=options.stride,
        limit=options.limit,
        run_tokens=options.run_tokens or RUN_TOKENS,
        variant=options.variant,
        providers=options.providers,
        threads=options.threads,
        progress=StderrProgress(verbose=options.verbose),
    )


def _measure_labelled(options: argparse.Namespace) -> dict[str, Any]:
    """Measure a model of another task than that of language models, as training and export do."""
    given = [name for name in (*_OF_LANGUAGE, "variant") if getattr(options, name)]
    if given:
        raise LosparseError(
            f"--data measures metrics of labelled texts, of a folder in all variants; leave out "
            f"--{given[0].replace('_', '-')}, or --data"
        )
    import torch

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    columns = {name: getattr(options, name) for name in ("text_column", "pair_column", "label_column")}
    progress = StderrProgress(verbose=options.verbose)
    if (Path(options.source) / METADATA_FILE).is_file():
        from losparse_export import TextFile, measure_variants

        data = TextFile(options.data, **columns)
        found = measure_variants(options.source, data, providers=options.providers, progress=progress)
    else:
        from ..evaluation.labelled import measure_checkpoint

        refuse_providers(options.source, options.providers)
        found = measure_checkpoint(options.source, options.data, **columns, progress=progress)
    return {
        "format": 1,
        "source": options.source,
        "data": found,
        "versions": versions("torch", "transformers", "onnxruntime", "numpy"),
    }


def labelled_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what a person reads of metrics of labelled texts: a line a model, its own metric first."""
    lines = []
    for name, model in found["models"].items():
        metrics = {found["metric"]: model, **model["metrics"]}
        shown = ", ".join(f"{metric} {_value(told)}" for metric, told in metrics.items())
        lines.append(f"{name}: {shown}, on {found['texts']:,} texts of {found['file']}")
    return lines + [f"{name}: not measured, {why}" for name, why in found.get("skipped", {}).items()]


def _value(told: Mapping[str, Any]) -> str:
    return f"{told['value']:.4g}" + ("" if told["error"] is None else f" +- {told['error']:.2g}")


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
