"""What `losparse compress` does, as data: a task, a method and a training.

Every field is a flag of the command line and a key of a recipe file (JSON or YAML); an unknown key is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..data.examples import TASKS
from ..errors import LosparseError
from ..layers.budget import check_share
from ..methods import LoSparse, Method, method_from_dict, method_to_dict
from .typed import typed_value, typed_values

LoraAlso = Literal["nothing", "head", "small"]
KeepLayersBy = Literal["even", "importance"]
KeepNeuronsBy = Literal["error", "norm"]

NO_METHOD = "none"
"""Name of the method of a recipe that compresses no layer."""


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
        calibration_examples: examples of --calibration, or else of training, that a one-shot method looks at, if it
            needs any; None takes 1,024, or fewer that hold 32,768 tokens.
        distill_weight: share of the loss that is distillation from the teacher; [0, 1].
        distill_temperature: softens both distributions of the distillation loss.
        distill_hidden: weight of the mean squared difference from the teacher's hidden states after every block,
            added to the loss; 0 or more.
        lora_rank: rank of the adapters that are trained in place of the factors of a one-shot method, and merged
            afterwards; 0 trains the factors themselves.
        lora_also: what is trained beside adapters: "nothing", the task's "head", or all that is "small": head,
            biases and norms.
        save_steps: optimizer steps between checkpoints; None takes a tenth of the training in `losparse compress`, and
            writes none in `fine_tune`.
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
    calibration_examples: int | None = None
    distill_weight: float = 0.0
    distill_temperature: float = 2.0
    distill_hidden: float = 0.0
    lora_rank: int = 0
    lora_also: LoraAlso = "head"
    save_steps: int | None = None

    def __post_init__(self) -> None:
        """Check every field."""
        positive = ("epochs", "max_steps", "learning_rate", "batch_size", "gradient_accumulation", "save_steps")
        for name in (*positive, "calibration_examples", "distill_temperature"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise LosparseError(f"{name} must be above 0, got {value!r}")
        for name in ("weight_decay", "max_grad_norm", "seed", "distill_hidden", "lora_rank"):
            if not getattr(self, name) >= 0:
                raise LosparseError(f"{name} must be 0 or more, got {getattr(self, name)!r}")
        for name in ("warmup_share", "distill_weight"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LosparseError(f"{name} must be in [0, 1], got {getattr(self, name)!r}")
        if self.lora_also not in get_args(LoraAlso):
            raise LosparseError(f"lora_also must be one of {', '.join(get_args(LoraAlso))}, got {self.lora_also!r}")
        for name, needed in (("lora_also", "lora_rank"), ("distill_temperature", "distill_weight")):
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default and getattr(self, needed) == 0:
                raise LosparseError(f"{name} {value!r} does nothing at {needed} 0; set that above 0, or leave it out")


@dataclass(frozen=True)
class Recipe:
    """A task, a method, a training, and which layers.

    Attributes:
        task: one of `TASKS`.
        method: a value from `losparse.methods`; None, "none" in a file, leaves every layer dense.
        training: the fine-tuning.
        targets: patterns of layers to compress; None takes the linear layers of transformer blocks.
        ignore: patterns of layers to leave dense.
        keep_layers: how many transformer blocks to keep, or which ones by number; None keeps all.
        keep_layers_by: how a number of blocks is chosen; see `losparse.models.depth`.
        keep_neurons: share of every block's feed-forward neurons to keep; None keeps all.
        keep_neurons_by: how they are chosen; see `losparse.models.neurons`.
    """

    task: str = "text-classification"
    method: Method | None = field(default_factory=LoSparse)
    training: Training = field(default_factory=Training)
    targets: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    keep_layers: int | tuple[int, ...] | None = None
    keep_layers_by: KeepLayersBy = "even"
    keep_neurons: float | None = None
    keep_neurons_by: KeepNeuronsBy = "error"

    def __post_init__(self) -> None:
        """Check what does not depend on a model."""
        if self.task not in TASKS:
            raise LosparseError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")
        if self.method is None and (self.targets is not None or self.ignore):
            raise LosparseError(f"method '{NO_METHOD}' compresses no layer; leave out targets and ignore")
        for name, choices in (("keep_layers_by", KeepLayersBy), ("keep_neurons_by", KeepNeuronsBy)):
            if getattr(self, name) not in get_args(choices):
                allowed = ", ".join(get_args(choices))
                raise LosparseError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.keep_neurons is not None:
            check_share("keep_neurons", self.keep_neurons)
        elif self.keep_neurons_by != "error":
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
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Build a recipe from plain data; missing keys take their defaults.

        Raises:
            LosparseError: an unknown key, or a value out of range or of another type.
        """
        _refuse_unknown("recipe", data, [f.name for f in fields(cls)])
        plain = ("task", "keep_layers_by", "keep_neurons", "keep_neurons_by")
        values: dict[str, Any] = {key: data[key] for key in plain if key in data}
        if "keep_neurons" in values:
            values["keep_neurons"] = typed_value("keep_neurons", float | None, values["keep_neurons"])
        if "method" in data:
            values["method"] = _method(_mapping("method", data["method"]))
        if "training" in data:
            training = _mapping("training", data["training"])
            _refuse_unknown("training", training, [f.name for f in fields(Training)])
            values["training"] = Training(**typed_values(Training, training))
        if data.get("targets") is not None:
            values["targets"] = _patterns("targets", data["targets"])
        if data.get("ignore") is not None:
            values["ignore"] = _patterns("ignore", data["ignore"])
        if data.get("keep_layers") is not None:
            values["keep_layers"] = _blocks(data["keep_layers"])
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a recipe file, JSON or YAML by its suffix.

        Raises:
            LosparseError: the file is missing or malformed, or holds an unknown key.
        """
        if not path.is_file():
            raise LosparseError(f"recipe file {str(path)!r} does not exist")
        try:
            text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a mark before the text
            if path.suffix in (".yaml", ".yml"):
                import yaml

                data = yaml.safe_load(text)
            else:
                data = json.loads(text)
        except UnicodeDecodeError as error:
            byte = f"byte 0x{error.object[error.start]:02x} is not utf-8"
            raise LosparseError(f"recipe file {str(path)!r} cannot be read: {byte}; save the file as utf-8") from error
        except Exception as error:  # the two parsers share no base class but ValueError-likes
            reason = str(error).splitlines()[0]
            raise LosparseError(f"recipe file {str(path)!r} cannot be read: {reason}") from error
        return cls.from_dict(_mapping("recipe", data))


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


def _method(data: Mapping[str, Any]) -> Method | None:
    if data.get("name") != NO_METHOD:
        return method_from_dict(data)
    extra = [key for key in data if key != "name"]
    if extra:
        raise LosparseError(f"method '{NO_METHOD}' has no settings, got {', '.join(map(str, extra))}; leave them out")
    return None


def _blocks(value: Any) -> int | tuple[int, ...]:
    numbers = value if isinstance(value, list | tuple) else [value]
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise LosparseError(f"keep_layers must be a number of blocks, or a list of their numbers, got {value!r}")
    return numbers[0] if isinstance(value, int) else tuple(numbers)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise LosparseError(f"{name} must be a table of keys and values, got {type(value).__name__}")
    return value


def _patterns(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise LosparseError(f"{name} must be a list of name patterns, got {value!r}")
    return tuple(value)


def _refuse_unknown(what: str, data: Mapping[str, Any], allowed: list[str]) -> None:
    for key in data:
        if key not in allowed:
            raise LosparseError(f"unknown {what} key {key!r}; allowed: {', '.join(allowed)}")
