"""What `losparse export` makes of a model, as data: which variants, and for which machine and calls.

Every field is a flag of the command line, and a key of `export` in the recipe of a build. Loads no torch, no onnx.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from losparse.errors import LosparseError
from losparse.validation import (
    AloneToo,
    AnyText,
    Flag,
    NotEmpty,
    OneOf,
    OneOrMore,
    Says,
    Threads,
    checked,
    json_schema,
    read_as,
)

from .costs import Call
from .precision.base import INT8_BITS
from .precision.fp16 import FP16
from .precision.int8 import INT8
from .precision.table import PRECISION_TABLE, check_precision
from .precision.variants import VariantForm, variant_form, variant_forms, variant_purposes

VariantName = Annotated[str, OneOf(variant_forms, variant_purposes)]
"""Name of a variant."""
_NAMES = "the name of a form, or a list of them"


@checked
class ExportSettings:
    """What an export makes.

    Attributes:
        precision: forms of the model to write; several stand side by side in one folder, of which the first is what
            opens by default.
        opset: ONNX operator set: 23, or 18 for older runtimes.
        weight_bits: of int8 (where it is alone), int8-rows and int8-static: 7, right on every CPU; 8, more exact, for
            CPUs with VNNI and Arm's.
        embeddings: embedding tables: as rows of "int8" with a scale each, or "float"; "auto" is int8 but in fp32 and
            fp16.
        share_weights: store equal large weights of several forms once, in a file beside them; without it every file
            stands alone, for tools that fetch a single one.
        layout: where graphs lie: "flat" beside everything else, or "transformers.js" in a folder `onnx`, where that
            looks for them by its names; there every file stands alone, for a browser fetches one.
        target: kind of machine to plan for: cpu (this one), measured (this one, whose costs are measured in a minute,
            and remembered), cpu-avx2, cpu-avx512-vnni, cpu-amx, or another of TARGETS of losparse_export.
        tune: choose forms by timing them here; never slower than dense.
        batch: texts in a run to plan for.
        length: tokens in a text to plan for.
        threads: onnxruntime threads to tune for.
    """

    precision: Annotated[tuple[VariantName, ...], NotEmpty(), AloneToo(), Says(_NAMES)] = ("fp32",)
    opset: Literal[23, 18] = 23
    weight_bits: Literal[7, 8] = 7
    embeddings: Literal["auto", "float", "int8"] = "auto"
    share_weights: Flag = True
    layout: Literal["flat", "transformers.js"] = "flat"
    target: AnyText = "cpu"
    tune: Flag = False
    batch: OneOrMore = 1
    length: OneOrMore = 128
    threads: Threads = 1

    def __post_init__(self) -> None:
        """Refuse what would change nothing, and what no export can be."""
        twice = [name for name, count in Counter(self.precision).items() if count > 1]
        if twice:
            raise LosparseError(f"precision must name every form once, got {twice[0]!r} twice")
        self._check_bits()
        if self.embeddings == "int8" and any(form.precision == FP16.name for form in self.forms):
            raise LosparseError("embeddings 'int8' is not for fp16, whose tables are in half precision; leave one out")
        if self.threads != 1 and not self.tune:
            raise LosparseError(f"threads {self.threads} does nothing without tune; add that, or leave it out")

    @property
    def several(self) -> bool:
        """Whether the folder holds more than one form, each under its own name."""
        return len(self.precision) > 1

    @property
    def graph_folder(self) -> str:
        """Where graphs lie inside the folder; empty for beside everything else."""
        return "" if self.layout == "flat" else "onnx"

    @property
    def shares_weights(self) -> bool:
        """Whether equal weights of several forms are stored once."""
        return self.share_weights and self.layout == "flat"

    @property
    def forms(self) -> tuple[VariantForm, ...]:
        """The variants, as a folder of several names them, each with the bits of its weights."""
        return tuple(replace(form, weight_bits=self._bits(form)) for form in map(variant_form, self.precision))

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Names of the variants whose scales are measured on texts."""
        return tuple(form.name for form in self.forms if PRECISION_TABLE[form.precision].calibrated)

    @property
    def call(self) -> Call:
        """The call to plan for."""
        return Call(batch=self.batch, length=self.length, threads=self.threads)

    def check_texts(self, *, calibrated: bool, labelled: bool) -> None:
        """Refuse texts to calibrate with that no form uses, and a form that needs them where there are none.

        Args:
            calibrated: whether there are texts to calibrate with.
            labelled: whether there are labelled ones, which do where there are no others.

        Raises:
            LosparseError: see above.
        """
        for form in self.forms:
            used = calibrated and (form.name in self.calibrated or not self.calibrated)
            check_precision(form.precision, calibrated=used, labelled=labelled)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` accepts."""
        return {**asdict(self), "precision": list(self.precision)}

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> ExportSettings:
        """Build settings from plain data; missing keys take their defaults.

        Args:
            data: what `to_dict` returned, or a part of it.
            source: what to call it in messages, such as the name of its file.

        Raises:
            LosparseError: an unknown key, or a value that does not exist or does nothing.
        """
        return read_as(cls, data, source, name="export")

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON schema, by which editors complete and check a recipe."""
        return json_schema(cls)

    def _bits(self, form: VariantForm) -> int | None:
        """Return the bits of a weight in an int8 product; None where a form has none."""
        if not PRECISION_TABLE[form.precision].weight_bits:
            return None
        free = form.weight_bits is None or (form.name == INT8.name and not self.several)
        return self.weight_bits if free else form.weight_bits

    def _check_bits(self) -> None:
        """Refuse bits that a form does not take from here."""
        if self.weight_bits == INT8_BITS[0]:
            return
        bits = {form.name: form.weight_bits for form in self.forms}
        if self.weight_bits not in bits.values() or bits.get(INT8.name, self.weight_bits) != self.weight_bits:
            raise LosparseError(
                f"weight_bits {self.weight_bits} is for int8-rows, int8-static, and int8 where it is alone, got it "
                f"with {', '.join(self.precision)}; leave it out, or name int8-vnni"
            )
