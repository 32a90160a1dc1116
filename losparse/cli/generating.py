"""What `losparse run` does with a language model's folder: one text is printed while it is written, more as lines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ..errors import LosparseError
from .parser import positive_int

if TYPE_CHECKING:
    from losparse_runtime import Session
    from losparse_runtime.generation.prompts import Prompt

GENERATION_FLAGS = {
    "max_new_tokens": "--max-new-tokens",
    "temperature": "--temperature",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "repetition_penalty": "--repetition-penalty",
    "seed": "--seed",
    "stop": "--stop",
}
"""What generation may take beside texts, by its name in `GenerationSettings`, which checks it."""


def add_generation_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that are for language models alone."""
    group = parser.add_argument_group(
        "language models",
        "One TEXT is continued, and printed as it is written. Several, or lines of stdin, are a line of JSON each.",
    )
    group.add_argument(
        "--max-new-tokens", type=positive_int, metavar="N", help="most tokens that a text gets (default 128)"
    )
    group.add_argument(
        "--temperature", type=float, metavar="T", help="draw tokens, the more evenly the higher (default 0: no draw)"
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely tokens (default 0: all)")
    group.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest tokens of this probability")
    group.add_argument("--min-p", type=float, metavar="P", help="draw from tokens of this share of the likeliest one's")
    group.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1: tokens that were there become less likely"
    )
    group.add_argument("--seed", type=int, metavar="N", help="draws the same tokens again")
    group.add_argument("--stop", action="append", metavar="TEXT", help="ends a text before it; several --stop")
    group.add_argument("--chat", action="store_true", help="each TEXT is what a user says to the model")
    group.add_argument("--system", metavar="TEXT", help="with --chat: what the model is told first")


def generate_texts(session: Session, texts: list[str], options: argparse.Namespace, batch_size: int | None) -> None:
    """Continue texts, and print what is added.

    Args:
        session: of a folder of a language model.
        texts: the prompts.
        options: of the command; those of `add_generation_options` are used.
        batch_size: texts that are continued together; None for the usual number.
    """
    from losparse_runtime.generation.model import BATCH_SIZE
    from losparse_runtime.tasks.generate import as_json

    choices: Any = {name: value for name in GENERATION_FLAGS if (value := getattr(options, name)) is not None}
    if options.system is not None and not options.chat:
        raise LosparseError("--system is told to a model that is talked to; add --chat")
    prompts = [_prompt(text, options) for text in texts]
    if options.texts and len(prompts) == 1:
        with session.stream(prompts[0], **choices) as stream:
            for piece in stream:
                print(piece, end="", flush=True)
        print()
        return
    for result in session.generate(prompts, batch_size or BATCH_SIZE, **choices):
        print(as_json(result))


def _prompt(text: str, options: argparse.Namespace) -> Prompt:
    if not options.chat:
        return text
    told = [] if options.system is None else [{"role": "system", "content": options.system}]
    return [*told, {"role": "user", "content": text}]
