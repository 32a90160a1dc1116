"""Models and tokenizers opened for training, with everything checked that can be checked before training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..calibration.walk import block_numbers
from ..data.labels import names_of_config
from ..data.tokens import Tokenized
from ..errors import LosparseError
from ..layers.linear import find_targets, weight_of
from ..methods import OneShot
from ..models.positions import NO_LIMIT, as_limit, count_positions
from ..saving.opening import embedding_rows, first_line, mismatches, open_whole, padding_token
from ..training.recipe import Recipe
from .checkpoint import Checkpoint

AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "regression": "AutoModelForSequenceClassification",
    "causal-lm": "AutoModelForCausalLM",
}

_HEAD_OF = {
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "regression": "ForSequenceClassification",
    "question-answering": "ForQuestionAnswering",
}
_OUTPUTS = {"regression": 1, "question-answering": 2}
_DEFAULT_CLASSES = 2
"""Classes of a head where config.json does not list them, as transformers leaves two without names out."""
_SHOWN = 5
"""Labels named in a message."""

logger = logging.getLogger(__name__)

_IMPORTANCE_ROWS, _IMPORTANCE_BATCH = 128, 16
"""Rows of training, evenly taken, on which the importance of blocks is measured."""


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and advice out of the command line's output."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def labels_of(checkpoint: Checkpoint, task: str) -> tuple[str, ...] | None:
    """Return the labels of a model that was trained for the task, by class id; None for generic or no labels."""
    table = checkpoint.config.get("id2label")
    if task in _OUTPUTS or not isinstance(table, dict) or outputs_of(checkpoint, task) is None:
        return None
    names = tuple(names_of_config(table))
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def warn_of_order(checkpoint: Checkpoint, task: str, labels: Sequence[str]) -> None:
    """Say in which order texts are taken for the classes of a head that has as many, and does not know these names."""
    differ = labels_of(checkpoint, task) not in (None, tuple(labels))
    if outputs_of(checkpoint, task) == len(labels) and (differ or _has_nameless_head(checkpoint, task, labels)):
        logger.warning(
            "the classes of '%s' are not called %s: these are taken for its classes 0 to %d in this order; if it "
            "learned another, give class ids as labels, or set id2label in its config.json",
            checkpoint.folder,
            ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else ""),
            len(labels) - 1,
        )


def check_teacher(checkpoint: Checkpoint, recipe: Recipe, labels: Sequence[str], tokenizer_size: int) -> None:
    """Refuse a model that cannot teach these labels.

    Raises:
        LosparseError: it has other labels or no names for them, has no head for the task while its outputs are to be
            imitated, or knows fewer tokens than the tokenizer has.
    """
    name, task = f"the teacher '{checkpoint.folder}'", recipe.task
    vocabulary = int(checkpoint.config.get("vocab_size", tokenizer_size))
    if vocabulary < tokenizer_size:
        raise LosparseError(f"{name} has {vocabulary} tokens, the model's tokenizer {tokenizer_size}")
    if recipe.training.distill_weight == 0:
        return  # hidden states alone: its head is not used
    outputs, wanted = outputs_of(checkpoint, task), _OUTPUTS.get(task, len(labels))
    if task in _HEAD_OF and outputs is None:
        raise LosparseError(f"{name} has no head for {task}; give one fine-tuned for it, or --distill-weight 0")
    if outputs is not None and outputs != wanted:
        raise LosparseError(f"{name} has a head of {outputs} outputs, training needs {wanted}; give one of the task")
    known = labels_of(checkpoint, task)
    if labels and known is not None and known != tuple(labels):
        raise LosparseError(
            f"{name} has the labels {', '.join(known)}, training has {', '.join(labels)}; "
            "both must have the same in the same order"
        )
    if _has_nameless_head(checkpoint, task, labels):
        raise LosparseError(
            f"{name} does not say which of its classes is {labels[0]}; set id2label in its config.json, or give class "
            "ids as labels"
        )


def _has_nameless_head(checkpoint: Checkpoint, task: str, labels: Sequence[str]) -> bool:
    """Tell whether a model has a trained head with generic names, where labels are texts."""
    ids = tuple(str(number) for number in range(len(labels)))
    texts = bool(labels) and tuple(labels) not in (ids, tuple(f"LABEL_{number}" for number in ids))
    return texts and outputs_of(checkpoint, task) is not None and labels_of(checkpoint, task) is None


def outputs_of(checkpoint: Checkpoint, task: str) -> int | None:
    """Return how many outputs the model's head for the task has; None if it has none, or another task's."""
    architectures = checkpoint.config.get("architectures") or []
    if task not in _HEAD_OF or not any(_HEAD_OF[task] in name for name in architectures):
        return None
    table = checkpoint.config.get("id2label")
    if task == "question-answering" or not isinstance(table, dict):
        return _DEFAULT_CLASSES
    return len(table)


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


def load_model(
    checkpoint: Checkpoint, task: str, labels: Sequence[str], seed: int, *, head: bool = False
) -> PreTrainedModel:
    """Open a dense model in fp32 for a task; a head it does not have is made from `seed`, unless it needs its own.

    Raises:
        LosparseError: the model cannot be opened, lacks weights of its blocks, has weights that are not finite, or
            (causal-lm) sees the tokens that it is to predict.
    """
    options: dict[str, Any] = {}
    if task == "regression":
        labels = ("LABEL_0",)
    if labels:
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {name: number for number, name in enumerate(labels)}
    if "SequenceClassification" in AUTO_CLASSES[task]:
        options["problem_type"] = "regression" if task == "regression" else "single_label_classification"
    set_seed(seed)
    model = _open(getattr(transformers, AUTO_CLASSES[task]), checkpoint, task, options, head=head)
    if task == "causal-lm":
        _check_causal(checkpoint.folder, model)
    return check_finite(checkpoint.folder, model)


def architecture_of(checkpoint: Checkpoint) -> type[PreTrainedModel]:
    """Return the class that a folder's config.json names.

    Raises:
        LosparseError: it names none, none that transformers has, or one that is not of its model type.
    """
    named = checkpoint.config.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    way_out = "set architectures in config.json, or add --train, which opens the model for --task"
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


def load_as_is(checkpoint: Checkpoint, seed: int) -> PreTrainedModel:
    """Open a dense model in fp32 as the architecture that its config.json names; a pooler may be made from `seed`.

    Raises:
        LosparseError: see `architecture_of`; or it cannot be opened, lacks weights, or has some that are not finite.
    """
    kind = architecture_of(checkpoint)
    set_seed(seed)
    model = _open(kind, checkpoint, kind.__name__, {}, head=True)
    return check_finite(checkpoint.folder, model)


def _open(
    kind: Any, checkpoint: Checkpoint, purpose: str, options: dict[str, Any], *, head: bool = False
) -> PreTrainedModel:
    model, info = open_whole(kind, checkpoint, purpose, **options)
    _check_complete(checkpoint, model, info, head=head)
    return model


def _check_complete(checkpoint: Checkpoint, model: PreTrainedModel, info: dict[str, Any], *, head: bool) -> None:
    """Refuse a folder that lacks weights which nothing will make up for; training makes up for a new head."""
    wrong = {name for name, *_ in info["mismatched_keys"]} | set(info["missing_keys"])
    base = "" if head else f"{model.base_model_prefix}."
    lacking = sorted(name for name in wrong if name.startswith(base) and ".pooler." not in f".{name}")
    if lacking:
        shapes = next((f": {each}" for each in mismatches(info) if each.startswith(f"'{lacking[0]}'")), "")
        raise LosparseError(
            f"model '{checkpoint.folder}' lacks {len(lacking)} weights of its {model.config.model_type} architecture, "
            f"or has them in another shape, the first is '{lacking[0]}'{shapes}; config.json and weights do not fit"
        )


@torch.no_grad()
def _check_causal(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a model whose first logits change with the last token, as BERT's do."""
    ids = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 1]]).clamp(max=model.config.vocab_size - 1)
    first, second = model.eval()(input_ids=ids).logits[:, :3]
    # One batch, the same sums in both rows: a causal model gives the same numbers up to rounding.
    if not torch.allclose(first, second, rtol=1e-4, atol=1e-4):
        raise LosparseError(
            f"model '{folder}' ({type(model).__name__}) sees the tokens that causal-lm has it predict; give a decoder, "
            "such as GPT-2 or Llama"
        )


def check_finite(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Return the model if all its weights are finite.

    Raises:
        LosparseError: a weight holds NaN or infinity.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LosparseError(f"model '{folder}' has NaN or infinity in '{name}'; use a sound copy of the model")
    return model


def check_compressible(model: nn.Module, recipe: Recipe) -> None:
    """Try the method on the shapes of the layers, without their values: fast, and before any training.

    Raises:
        LosparseError: the model has no layer to compress, or the budget cannot be met in one of them.
    """
    method = recipe.method
    if method is None:
        return
    layers = find_targets(model, recipe.targets, recipe.ignore)
    shapes = {name: (int(weight_of(m).shape[0]), int(weight_of(m).shape[1])) for name, m in layers.items()}
    if isinstance(method, OneShot):
        if not method.measured:
            method.sizes(shapes, block_numbers(model, layers))
        return
    for name, module in layers.items():
        bias = getattr(module, "bias", None)
        weight = torch.empty(shapes[name], device="meta")
        method.start(name, weight, None if bias is None else torch.empty(bias.shape, device="meta"))


def batches_of(rows: Tokenized, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    """Yield batches of rows on which the importance of blocks is measured."""
    from ..training.fine_tune import collator

    collate = collator(model, tokenizer)
    chosen = [rows[row] for row in range(0, len(rows), -(-len(rows) // _IMPORTANCE_ROWS))]
    for first in range(0, len(chosen), _IMPORTANCE_BATCH):
        yield collate(chosen[first : first + _IMPORTANCE_BATCH])


def load_tokenizer(folder: Path, task: str = "text-classification") -> PreTrainedTokenizerBase:
    """Open a folder's tokenizer.

    Raises:
        LosparseError: there is none, or it has no fast form or, where batches are padded, no padding token.
    """
    from losparse_runtime.text.panics import panics_caught

    try:
        with panics_caught():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises unrelated types for what it cannot read
        raise LosparseError(
            f"the tokenizer of '{folder}' cannot be opened: {first_line(error)}; it needs tokenizer.json"
        ) from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # transformers makes an empty one where there is none
        raise LosparseError(f"the tokenizer of '{folder}' has no words; it needs tokenizer.json, or vocabulary files")
    if not tokenizer.is_fast:
        raise LosparseError(f"the tokenizer of '{folder}' has no fast form; it needs tokenizer.json")
    if tokenizer.pad_token is None and task != "causal-lm":
        raise LosparseError(f"the tokenizer of '{folder}' has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def max_length(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wanted: int | None,
    teacher: PreTrainedModel | None = None,
) -> int:
    """Return how many tokens a text may have: what is wanted, or all that model and teacher have positions for.

    Raises:
        LosparseError: more is wanted than one of them has positions.
    """
    counts = [count_positions(each) for each in (model, teacher) if each is not None]
    known = [count for count in counts if count is not None]
    if not known:
        return wanted or as_limit(tokenizer.model_max_length) or NO_LIMIT
    limit = min(known)
    if wanted is not None and wanted > limit:
        whose = "model" if limit == counts[0] else "teacher"
        raise LosparseError(f"--max-length must be at most the {whose}'s {limit} positions, got {wanted}")
    return limit if wanted is None else wanted
