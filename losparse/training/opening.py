"""Models and tokenizers opened for training, or to be compressed as they are: whole and sound, or refused.

read_checkpoint(folder) --load_model(task, labels)--> the task's class in fp32, with a head for these labels
--load_as_is-->               the class that config.json names
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from losparse_runtime.contract.task import Task
from losparse_runtime.contract.tensors import TOKENS

from ..errors import LosparseError
from ..models.positions import NO_LIMIT, as_limit, count_positions
from ..models.signature import padding_token
from ..saving.folder import Checkpoint
from ..saving.opening import Opened, check_finite, embedding_rows, open_tokenizer, open_whole, quiet_loading


@contextmanager
def transformers_quiet() -> Iterator[None]:
    """Keep transformers' own progress bars and advice out of a program's output, while the block runs."""
    accelerate = logging.getLogger("accelerate")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)
    try:
        with quiet_loading():
            yield
    finally:
        accelerate.setLevel(level)


def load_model(
    checkpoint: Checkpoint, task: Task, labels: Sequence[str], seed: int, *, head: bool = False
) -> PreTrainedModel:
    """Open a dense model in fp32 for a task; a head it does not have is made.

    Args:
        checkpoint: of the model.
        task: to train for.
        labels: class names by id; none where the task has no classes.
        seed: of a new head's weights.
        head: refuse a model that would get a new head.

    Raises:
        LosparseError: the model cannot be opened, lacks weights of its blocks, has weights that are not finite, or
            sees the tokens that it is to predict.
    """
    options: dict[str, Any] = {}
    if task.labels == "number":
        labels = ("LABEL_0",)
    if labels:
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {name: number for number, name in enumerate(labels)}
    if task.problem is not None:
        options["problem_type"] = task.problem
    set_seed(seed)
    model = _open(getattr(transformers, task.auto_class), checkpoint, task.name, options, head=head)
    if task.causal:
        _check_causal(checkpoint.folder, model, task)
    check_finite(model, str(checkpoint.folder))
    return model


def load_as_is(checkpoint: Checkpoint, seed: int) -> PreTrainedModel:
    """Open a dense model in fp32 as the architecture that its config.json names; a pooler may be made from `seed`.

    Raises:
        LosparseError: see `architecture_of`; or it cannot be opened, lacks weights, or has some that are not finite.
    """
    kind = architecture_of(checkpoint)
    set_seed(seed)
    model = _open(kind, checkpoint, kind.__name__, {}, head=True)
    check_finite(model, str(checkpoint.folder))
    return model


def architecture_of(checkpoint: Checkpoint) -> type[PreTrainedModel]:
    """Return the class that a folder's config.json names.

    Raises:
        LosparseError: it names none, none that transformers has, or one that is not of its model type.
    """
    named = checkpoint.config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    way_out = "set architectures in config.json, or train it (--train), which opens the model for its task (--task)"
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        got = repr(name) if name else "none"
        raise LosparseError(
            f"model '{checkpoint.folder}' must name a class of transformers {transformers.__version__} as its "
            f"architecture, got {got}; {way_out}"
        )
    own, given = getattr(getattr(kind, "config_class", None), "model_type", None), checkpoint.config.get("model_type")
    if own != given:
        raise LosparseError(
            f"model '{checkpoint.folder}' has the architecture {name}, which is of type {own!r}, and model_type "
            f"{given!r}; {way_out}"
        )
    return kind


def _open(
    kind: Any, checkpoint: Checkpoint, purpose: str, options: dict[str, Any], *, head: bool = False
) -> PreTrainedModel:
    opened = open_whole(kind, checkpoint, purpose, **options)
    _check_complete(checkpoint, opened, head=head)
    model: PreTrainedModel = opened.model
    return model


def _check_complete(checkpoint: Checkpoint, opened: Opened, *, head: bool) -> None:
    """Refuse a folder that lacks weights which nothing will make up for; training makes up for a new head."""
    base = "" if head else f"{opened.model.base_model_prefix}."
    lacking = sorted(
        name for name in {*opened.missing, *opened.misshapen} if name.startswith(base) and ".pooler." not in f".{name}"
    )
    if lacking:
        shapes = f": {opened.mismatch(lacking[0])}" if lacking[0] in opened.misshapen else ""
        raise LosparseError(
            f"model '{checkpoint.folder}' lacks {len(lacking)} weights of its {opened.model.config.model_type} "
            f"architecture, or has them in another shape, the first is '{lacking[0]}'{shapes}; config.json and weights "
            "do not fit"
        )


@torch.no_grad()
def _check_causal(folder: Path, model: PreTrainedModel, task: Task) -> None:
    """Refuse a model whose first logits change with the last token, as BERT's do."""
    ids = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1]]).clamp(max=model.config.vocab_size - 1)
    first, second = model.eval()(**{TOKENS: ids}).logits[:, :3]
    # One batch, the same sums in both rows: a causal model gives the same numbers up to rounding.
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
        raise LosparseError(
            f"model '{folder}' ({type(model).__name__}) sees the tokens that {task.name} has it predict; give a "
            "decoder, such as GPT-2 or Llama"
        )


def load_tokenizer(folder: Path, *, pads: bool = True) -> PreTrainedTokenizerBase:
    """Open a folder's tokenizer.

    Args:
        folder: of the model.
        pads: whether batches are to be padded, for which it needs a padding token.

    Raises:
        LosparseError: there is none, or it has no fast form or no padding token where one is needed.
    """
    tokenizer: PreTrainedTokenizerBase = open_tokenizer(folder)
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # transformers makes an empty one where there is none
        raise LosparseError(f"the tokenizer of '{folder}' has no words; it needs tokenizer.json, or vocabulary files")
    if not tokenizer.is_fast:
        raise LosparseError(f"the tokenizer of '{folder}' has no fast form; it needs tokenizer.json")
    if tokenizer.pad_token is None and pads:
        raise LosparseError(f"the tokenizer of '{folder}' has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def fit_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Return the model, told which token pads; decoders with a head find the last real token of a text by it.

    Raises:
        LosparseError: the tokenizer has tokens that the model has no embedding of.
    """
    rows, last = embedding_rows(model), max(tokenizer.get_vocab().values())
    if rows is not None and last >= rows:
        raise LosparseError(
            f"the tokenizer of '{tokenizer.name_or_path}' has tokens up to number {last}, and the model's embedding "
            f"{rows} rows (0..{rows - 1}); give the model its own tokenizer, or call "
            f"model.resize_token_embeddings({last + 1}), train it, and save it again"
        )
    if padding_token(model.config) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def text_length(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wanted: int | None,
    teacher: PreTrainedModel | None = None,
    *,
    usual: int | None = None,
) -> int:
    """Return how many tokens a text may have: what is wanted, or all that model and teacher have positions for.

    Args:
        model: to read them.
        tokenizer: of it.
        wanted: by the caller; None where he does not say.
        teacher: another model to read them.
        usual: the most where nobody says; None for no such bound.

    Raises:
        LosparseError: more is wanted than one of them has positions.
    """
    counts = [count_positions(each) for each in (model, teacher) if each is not None]
    known = [count for count in counts if count is not None]
    if not known:
        return wanted or usual or as_limit(tokenizer.model_max_length) or NO_LIMIT
    limit = min(known)
    if wanted is not None and wanted > limit:
        whose = "model" if limit == counts[0] else "teacher"
        raise LosparseError(f"max_length (--max-length) must be at most the {whose}'s {limit} positions, got {wanted}")
    return wanted or min(limit, usual or limit)
