"""What `losparse compress` does, as data: a task, a method and a training.

Every field is a flag of the command line and a key of a recipe file (JSON or YAML); an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from ..data.tasks.registry import DEFAULT_TASK, TASK_DATA
from ..errors import LosparseError
from ..methods import METHOD, NO_METHOD, LoSparse, Method, method_to_dict
from ..models.choices import EmbeddingRows, KeepLayersBy, KeepNeuronsBy
from ..validation import (
    AnyText,
    Flag,
    NotEmpty,
    NotNegative,
    Numeric,
    OneOf,
    OneOrMore,
    Positive,
    Says,
    Share,
    ShareBetween,
    ShareFrom0,
    WrongValueError,
    ZeroOrMore,
    checked,
    json_schema,
    read_as,
)
from ..validation.documents import read_document

LoraAlso = Literal["nothing", "head", "small"]

Patterns = Annotated[tuple[AnyText, ...], Says("a list of name patterns")]
"""Names of layers, or patterns of them."""

_Number = Annotated[int, Numeric(texts=False)]
Blocks = Annotated[
    _Number | Annotated[tuple[_Number, ...], NotEmpty()], Says("a number of blocks, or a list of their numbers")
]
"""How many transformer blocks, or which ones."""
Seed = Annotated[int, Numeric(least=0, most=2**32 - 1)]
"""What numpy's and torch's generators take both."""


@checked
class Training:
    """One fine-tuning.

    Attributes:
        epochs: passes over the training examples.
        max_steps: optimizer steps; overrides `epochs` when given.
        learning_rate: peak of the schedule (linear warm-up, linear decay).
        batch_size: examples per process and forward pass.
        gradient_accumulation: forward passes per optimizer step.
        warmup_share: share of the steps in which the learning rate rises.
        weight_decay: AdamW's, decoupled.
        max_grad_norm: gradients are clipped to this norm; 0 does not clip.
        bf16: forward and backward under bf16 autocast.
        freeze_embeddings: leave the embedding tables as they are.
        seed: of everything random.
        calibration_examples: examples of --calibration, or else of training, that a one-shot method looks at, if it
            needs any; left out, 1,024, or fewer that hold 32,768 tokens.
        distill_weight: share of the loss that is distillation from the teacher.
        distill_temperature: softens both distributions of the distillation loss.
        distill_hidden: weight of the mean squared difference from the teacher's hidden states after every block,
            added to the loss.
        lora_rank: rank of the adapters that are trained in place of the factors of a one-shot method, and merged
            afterwards; 0 trains the factors themselves.
        lora_also: what is trained beside adapters: "nothing", the task's "head", or all that is "small": head,
            biases and norms.
        save_steps: optimizer steps between checkpoints; left out, `losparse compress` takes a tenth of the training,
            and `fine_tune` in Python writes none.
    """

    epochs: Positive = 4.0
    max_steps: OneOrMore | None = None
    learning_rate: Positive = 8e-5
    batch_size: OneOrMore = 32
    gradient_accumulation: OneOrMore = 1
    warmup_share: ShareFrom0 = 0.1
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0
    bf16: Flag = False
    freeze_embeddings: Flag = True
    seed: Seed = 0
    calibration_examples: OneOrMore | None = None
    distill_weight: ShareFrom0 = 0.0
    distill_temperature: Positive = 2.0
    distill_hidden: NotNegative = 0.0
    lora_rank: ZeroOrMore = 0
    lora_also: LoraAlso = "head"
    save_steps: OneOrMore | None = None

    def __post_init__(self) -> None:
        """Refuse what would change nothing."""
        if self.lora_also != "head" and self.lora_rank == 0:
            raise LosparseError(
                f"lora_also {self.lora_also!r} does nothing at lora_rank 0; set that above 0, or leave it out"
            )
        if self.distill_temperature != 2.0 and self.distill_weight == 0:
            raise LosparseError(
                f"distill_temperature {self.distill_temperature:g} does nothing at distill_weight 0; set that above "
                "0, or leave it out"
            )


@checked
class Recipe:
    """A task, a method, a training, and which layers.

    Attributes:
        task: what the model is to do.
        method: how to compress: a value from `losparse.methods`; None, "none" in a file, leaves every layer dense.
        training: the fine-tuning.
        targets: patterns of layers to compress; left out, the linear layers of transformer blocks.
        ignore: patterns of layers to leave dense.
        keep_layers: how many transformer blocks to keep (3), or which ones by number from 0 (0 2 5); left out, all.
        keep_layers_by: how a number of blocks is chosen: "even" spaces them evenly, "importance" measures them on
            texts of --train, or without it of --calibration.
        keep_neurons: share of the feed-forward neurons of every block to keep, chosen on texts as blocks are; left
            out, all.
        keep_neurons_by: how neurons are chosen: "error" drops those that the outputs miss least, and the rest takes
            over; "norm" drops those of small weights and inputs.
        embeddings: how rows of embedding tables are stored: "float" as they are, "int8" in 8 bits with a scale each,
            which training leaves as they are; a head that is tied to a table reads the same rows.
        embedding_rank: share of the width of embedding tables that is stored of every row, beside a factor that widens
            them; left out, all of it.
    """

    task: Annotated[str, OneOf(lambda: TASK_DATA)] = DEFAULT_TASK
    method: Annotated[Method | None, METHOD] = field(default_factory=LoSparse)
    training: Training = field(default_factory=Training)
    targets: Patterns | None = None
    ignore: Patterns = ()
    keep_layers: Blocks | None = None
    keep_layers_by: KeepLayersBy = "even"
    keep_neurons: Share | None = None
    keep_neurons_by: KeepNeuronsBy = "error"
    embeddings: EmbeddingRows = "float"
    embedding_rank: ShareBetween | None = None

    def __post_init__(self) -> None:
        """Check what does not depend on a model."""
        if self.method is None and (self.targets is not None or self.ignore):
            raise LosparseError(f"method '{NO_METHOD}' compresses no layer; leave out targets and ignore")
        if self.keep_neurons is None and self.keep_neurons_by != "error":
            raise LosparseError(f"keep_neurons_by {self.keep_neurons_by!r} needs a share as keep_neurons, got none")
        if self.keep_layers_by == "importance" and not isinstance(self.keep_layers, int):
            given = "none" if self.keep_layers is None else "a list of blocks"
            raise LosparseError(f"keep_layers_by 'importance' needs the number of blocks as keep_layers, got {given}")
        check_lora(self.training, self.method)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` accepts."""
        return {
            "task": self.task,
            "method": {"name": NO_METHOD} if self.method is None else method_to_dict(self.method),
            "training": asdict(self.training),
            "targets": None if self.targets is None else list(self.targets),
            "ignore": list(self.ignore),
            "keep_layers": list(self.keep_layers) if isinstance(self.keep_layers, tuple) else self.keep_layers,
            "keep_layers_by": self.keep_layers_by,
            "keep_neurons": self.keep_neurons,
            "keep_neurons_by": self.keep_neurons_by,
            "embeddings": self.embeddings,
            "embedding_rank": self.embedding_rank,
        }

    @property
    def compacts_embeddings(self) -> bool:
        """Whether embedding tables are made smaller."""
        return self.embeddings != "float" or self.embedding_rank is not None

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> Recipe:
        """Build a recipe from plain data; missing keys take their defaults.

        Args:
            data: what `to_dict` returned, or a part of it.
            source: what to call the recipe in messages, such as the name of its file.

        Raises:
            LosparseError: an unknown key, or a value out of range or of another type.
        """
        if isinstance(data, Mapping) and data.get("ignore", ()) is None:
            data = {**data, "ignore": ()}
        if isinstance(data, Mapping) and data.get("method", "") is None:  # of a key without a value in YAML
            raise WrongValueError("method", f"must be {METHOD.wanted}, got None", source=source)
        return read_as(cls, data, source, name="recipe")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file, JSON or YAML by its suffix.

        Raises:
            LosparseError: the file is missing or malformed, or holds an unknown key.
        """
        document = read_document(path, "recipe", tuple(each.name for each in fields(cls)))
        try:
            return cls.from_dict(document.data)
        except WrongValueError as error:
            raise document.placed(error) from None

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a recipe file, by which editors complete and check it."""
        return json_schema(cls)


def check_lora(training: Training, method: Method | None) -> None:
    """Refuse adapters where they have nothing to stand on.

    Raises:
        LosparseError: `lora_rank` is above 0, and the method prunes while it trains, or there is none.
    """
    if training.lora_rank > 0 and (method is None or method.trains):
        got = "no method" if method is None else type(method).__name__
        raise LosparseError(
            f"lora_rank needs a one-shot method such as svd, whose factors can carry adapters, got {got}; set it to 0"
        )
