"""What `losparse compress` does, as data: a task, a method and a training.

Every field is a flag of the command line and a key of a recipe file (JSON or YAML); an unknown key is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .data import TASKS
from .errors import LosparseError
from .methods import LoSparse, Method, method_from_dict, method_to_dict


@dataclass(frozen=True)
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
        distill_weight: share of the loss that is distillation from the teacher; [0, 1].
        distill_temperature: softens both distributions of the distillation loss.
        save_steps: optimizer steps between checkpoints; None writes none.
    """

    epochs: float = 4.0
    max_steps: int | None = None
    learning_rate: float = 8e-5
    batch_size: int = 32
    gradient_accumulation: int = 1
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    bf16: bool = False
    freeze_embeddings: bool = True
    seed: int = 0
    distill_weight: float = 0.0
    distill_temperature: float = 2.0
    save_steps: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        positive = ("epochs", "max_steps", "learning_rate", "batch_size", "gradient_accumulation", "save_steps")
        for name in (*positive, "distill_temperature"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise LosparseError(f"{name} must be above 0, got {value!r}")
        for name in ("weight_decay", "max_grad_norm", "seed"):
            if not getattr(self, name) >= 0:
                raise LosparseError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        for name in ("warmup_share", "distill_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LosparseError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Recipe:
    """A task, a method, a training, and which layers.

    Attributes:
        task: one of `TASKS`.
        method: a value from `losparse.methods`.
        training: the fine-tuning.
        targets: patterns of layers to compress; None takes the linear layers of transformer blocks.
        ignore: patterns of layers to leave dense.
    """

    task: str = "text-classification"
    method: Method = field(default_factory=LoSparse)
    training: Training = field(default_factory=Training)
    targets: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the task."""
        if self.task not in TASKS:
            raise LosparseError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` accepts."""
        return {
            "task": self.task,
            "method": method_to_dict(self.method),
            "training": asdict(self.training),
            "targets": None if self.targets is None else list(self.targets),
            "ignore": list(self.ignore),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Build a recipe from plain data; missing keys take their defaults.

        Raises:
            LosparseError: an unknown key, or a value out of range.
        """
        _refuse_unknown("recipe", data, [f.name for f in fields(cls)])
        values: dict[str, Any] = {}
        if "task" in data:
            values["task"] = data["task"]
        if "method" in data:
            values["method"] = method_from_dict(_mapping("method", data["method"]))
        if "training" in data:
            training = _mapping("training", data["training"])
            _refuse_unknown("training", training, [f.name for f in fields(Training)])
            values["training"] = Training(**training)
        if data.get("targets") is not None:
            values["targets"] = _patterns("targets", data["targets"])
        if data.get("ignore") is not None:
            values["ignore"] = _patterns("ignore", data["ignore"])
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file, JSON or YAML by its suffix.

        Raises:
            LosparseError: the file is missing or malformed, or holds an unknown key.
        """
        if not path.is_file():
            raise LosparseError(f"recipe file {str(path)!r} does not exist")
        text = path.read_text(encoding="utf-8")
        try:
            if path.suffix in (".yaml", ".yml"):
                import yaml

                data = yaml.safe_load(text)
            else:
                data = json.loads(text)
        except Exception as error:  # the two parsers share no base class but ValueError-likes
            reason = str(error).splitlines()[0]
            raise LosparseError(f"recipe file {str(path)!r} cannot be read: {reason}") from error
        return cls.from_dict(_mapping("recipe", data))


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LosparseError(f"{name} must be a table of keys and values, got {type(value).__name__}")
    return value


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise LosparseError(f"{name} must be a list of name patterns, got {value!r}")
    return tuple(value)


def _refuse_unknown(what: str, data: Mapping[str, Any], allowed: list[str]) -> None:
    for key in data:
        if key not in allowed:
            raise LosparseError(f"unknown {what} key {key!r}; allowed: {', '.join(allowed)}")
