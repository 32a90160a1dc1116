"""What `losparse build` does, as data: a model, texts, a compression, the variants to export and what they must reach.

    model: MODEL
    data: {train: train.csv, validation: dev.csv, test: test.csv}
    dense: {epochs: 3}                          # fine-tuned first; leave it out where MODEL is fine-tuned already
    compress: {method: {name: losparse, keep: 0.2}}
    export: {precision: [fp32, int8]}
    gates: {max_accuracy_drop: 1.0, min_speedup: 3}

Every field is a key of a recipe file (YAML or JSON), a field of a Python config, and an override of the command line
(`compress.method.keep=0.3`). Those of `compress` and `export` are flags of `losparse compress` and `losparse export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from losparse_export.settings import ExportSettings

from ..errors import LosparseError
from ..methods import NO_METHOD, OneShot
from ..training.recipe import Recipe, Training
from ..validation import (
    AnyText,
    Flag,
    NotEmpty,
    NotNegative,
    OneOrMore,
    Positive,
    Says,
    ShareBetween,
    Size,
    Threads,
    WrongValueError,
    checked,
    json_schema,
    read_as,
)
from ..validation.documents import Document, read_document
from .overrides import override

Shapes = Annotated[
    tuple[Annotated[tuple[OneOrMore, OneOrMore], Says("a pair of texts in a run and tokens in a text")], ...],
    NotEmpty(),
    Says("a list of pairs of texts in a run and tokens in a text, as in [[1, 128], [8, 128]]"),
]
Filled = Annotated[AnyText, NotEmpty()]
SHAPES = ((1, 16), (1, 128), (8, 128))


@checked
class Data:
    """Files of texts (csv, tsv, jsonl; for texts alone txt), or hub data sets as `owner/name[@config][:split]`.

    Attributes:
        train: labelled texts to train on; left out, nothing is trained.
        validation: labelled texts that trainings are measured on; left out, a part of `train`.
        validation_share: share of `train` to hold out in its place; left out, 0.1.
        test: labelled texts that gates and the report measure accuracy on; left out, those of `validation`, and without
            that accuracy is not measured.
        calibration: texts that a one-shot method and the scales of int8-static look at; left out, some of `train`, and
            those of `test`.
        text_column: of texts, words or questions; left out, the usual names.
        pair_column: of second texts or contexts.
        label_column: of labels, tags or answers.
        max_length: tokens of a text; left out, all positions that the model has.
    """

    train: Filled | None = None
    validation: Filled | None = None
    validation_share: ShareBetween | None = None
    test: Filled | None = None
    calibration: Filled | None = None
    text_column: Filled | None = None
    pair_column: Filled | None = None
    label_column: Filled | None = None
    max_length: OneOrMore | None = None

    @property
    def measured(self) -> str | None:
        """Labelled texts that accuracy is measured on."""
        return self.test or self.validation


@checked
class Bench:
    """How variants are timed: in turns, beside the dense model.

    Attributes:
        shapes: pairs of texts in a run and tokens in a text; left out, those of 1 x 16, 1 x 128 and 8 x 128 that the
            model has positions for.
        threads: of onnxruntime; of several, idle ones do not spin, for the models of a bench share the cores.
        seconds: timed seconds a model and shape.
        openvino: time the dense model in OpenVINO too, where it is installed.
        keep: shares of parameters at which random models of the same shape are timed, for the picture of latency
            against keep; an empty list for none.
    """

    shapes: Shapes | None = None
    threads: Threads = 1
    seconds: Positive = 1.0
    openvino: Flag = True
    keep: tuple[ShareBetween, ...] = (0.1, 0.2, 0.3, 0.5)


@checked
class Gates:
    """What a variant must reach to be in the folder; it always must equal PyTorch within its precision.

    Points are hundredths of the task's metric. Accuracy is that on `data.test`.

    Attributes:
        max_accuracy_drop: points that a variant may lie below the dense model.
        max_precision_drop: points that it may lie below the compressed model in PyTorch, which it was exported from.
        min_accuracy: points that it must reach.
        min_speedup: how many times faster than the dense model in fp32 it must be, at every shape of the bench.
        min_speedup_over_free: how many times faster than the fastest dense model of any precision and runtime.
        max_latency_ms: median milliseconds of a run, at the first shape of the bench.
        max_bytes: of the variant's files, as in 20MB.
    """

    max_accuracy_drop: NotNegative | None = None
    max_precision_drop: NotNegative | None = None
    min_accuracy: Positive | None = None
    min_speedup: Positive | None = None
    min_speedup_over_free: Positive | None = None
    max_latency_ms: Positive | None = None
    max_bytes: Size | None = None

    @property
    def of_accuracy(self) -> list[str]:
        """The gates that need labelled texts, of those that are set."""
        names = ("max_accuracy_drop", "max_precision_drop", "min_accuracy")
        return [name for name in names if getattr(self, name) is not None]


@checked
class BuildRecipe:
    """A whole build.

    Attributes:
        model: dense model: a folder, or a hub id as owner/name.
        name: what reports call the build; left out, the name of the model.
        data: texts.
        dense: how the dense model is fine-tuned first; left out, it is taken as it is.
        compress: how it is compressed: task, method, training and what else `losparse compress` takes.
        recover: train the compressed model on `data.train`; false for a one-shot method without training.
        teacher: fine-tuned model that a compression with distillation imitates; left out, the dense model.
        export: the variants, and what else `losparse export` takes; left out, fp32 and int8.
        bench: how variants are timed.
        gates: what they must reach.
    """

    model: Annotated[AnyText, NotEmpty()]
    name: AnyText | None = None
    data: Data = field(default_factory=Data)
    dense: Training | None = None
    compress: Recipe = field(default_factory=Recipe)
    recover: Flag = True
    teacher: AnyText | None = None
    export: ExportSettings = field(default_factory=lambda: ExportSettings(precision=("fp32", "int8")))
    bench: Bench = field(default_factory=Bench)
    gates: Gates = field(default_factory=Gates)

    def __post_init__(self) -> None:
        """Refuse what does not fit together, before anything is read."""
        if self.dense is not None and self.data.train is None:
            raise LosparseError("dense needs labelled texts as data.train, got none; add them, or leave dense out")
        if self.gates.of_accuracy and self.data.measured is None:
            raise LosparseError(
                f"gates have {self.gates.of_accuracy[0]}, which needs labelled texts as data.test or data.validation, "
                "got none"
            )
        one_shot = isinstance(self.compress.method, OneShot | None)
        if not self.recover and not one_shot:
            raise LosparseError("recover false is for one-shot methods such as svd; this method trains as it prunes")
        if self.teacher is not None and not self.distils:
            raise LosparseError(
                "teacher does nothing without compress.training.distill_weight or distill_hidden above 0; set one, or "
                "leave it out"
            )

    @property
    def distils(self) -> bool:
        """Whether the compressed model imitates another one."""
        training = self.compress.training
        return max(training.distill_weight, training.distill_hidden) > 0

    @property
    def title(self) -> str:
        """What reports call the build."""
        return self.name or Path(self.model).name

    @property
    def method_name(self) -> str:
        """Name of the method, as in recipe files."""
        return NO_METHOD if self.compress.method is None else str(self.compress.to_dict()["method"]["name"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` accepts."""
        return {
            "model": self.model,
            "name": self.name,
            "data": asdict(self.data),
            "dense": None if self.dense is None else asdict(self.dense),
            "compress": self.compress.to_dict(),
            "recover": self.recover,
            "teacher": self.teacher,
            "export": self.export.to_dict(),
            "bench": _plain(asdict(self.bench)),
            "gates": asdict(self.gates),
        }

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> BuildRecipe:
        """Build a recipe from plain data; missing keys take their defaults.

        Args:
            data: what `to_dict` returned, or a part of it with at least `model`.
            source: what to call the recipe in messages, such as the name of its file.

        Raises:
            LosparseError: an unknown key, a value out of range or of another type, or parts that do not fit together.
        """
        return read_as(cls, _without_nothing(data), source, name="recipe")

    @classmethod
    def read(cls, path: Path, overrides: Sequence[str] = ()) -> BuildRecipe:
        """Read a recipe file, JSON or YAML by its suffix.

        A path in it that is there beside the file is taken so; others are from the current folder, or the hub's.

        Args:
            path: of the file.
            overrides: more keys and values, as in "compress.method.keep=0.3"; values are YAML.

        Raises:
            LosparseError: the file is missing or malformed, or a key or value in it or in an override is not right; the
                message says the line, or the override.
        """
        document = read_document(path, "recipe", tuple(each.name for each in fields(cls)))
        try:
            recipe = cls.from_dict(override(document.data, overrides, cls))
        except WrongValueError as error:
            raise _placed(error, document, overrides) from None
        return recipe.beside(path.parent)

    def beside(self, folder: Path) -> BuildRecipe:
        """Return the recipe with paths as they are from here: those that are there in `folder` lead there."""

        def place(value: str | None) -> str | None:
            if value is None or Path(value).is_absolute():
                return value
            return str(folder / value) if (folder / value).exists() else value

        data = replace(
            self.data,
            train=place(self.data.train),
            validation=place(self.data.validation),
            test=place(self.data.test),
            calibration=place(self.data.calibration),
        )
        return replace(self, model=str(place(self.model)), teacher=place(self.teacher), data=data)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of a recipe file, by which editors complete and check it."""
        return json_schema(cls)


def _placed(error: WrongValueError, document: Document, overrides: Sequence[str]) -> WrongValueError:
    """Return an error with what it came from: an override, or a line of the file."""
    for text in reversed(overrides):
        path = text.partition("=")[0].strip()
        inside = error.path == path or error.path.startswith((f"{path}.", f"{path}["))
        if inside or (path.startswith(f"{error.path}.") and error.path not in document.lines):
            return WrongValueError(error.path, error.said, unknown=error.unknown, source=f"override {text!r}")
    return document.placed(error)


def _without_nothing(data: Any) -> Any:
    """Leave out tables without a value: in YAML a key with comments alone below it has none."""
    if not isinstance(data, Mapping):
        return data
    tables = ("data", "compress", "export", "bench", "gates")
    found = {key: value for key, value in data.items() if value is not None or key not in tables}
    compress = found.get("compress")
    if isinstance(compress, Mapping):
        empty = [key for key in ("ignore", "method", "training") if compress.get(key, key) is None]
        found["compress"] = {key: value for key, value in compress.items() if key not in empty}
    return found


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
