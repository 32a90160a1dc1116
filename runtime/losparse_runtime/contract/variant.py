"""A variant of an exported model: its graphs in one precision, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .fields import Fields
from .gates import PassedGate, parse_gate

MODEL_FILE = "model.onnx"
PLAN_FILE = "plan.json"
DEFAULT_PROVIDER = "CPUExecutionProvider"
_MIXES = "int8"
"""The precision that mixes the texts of a batch where a folder does not say: it was the only one for long."""
SAFE_WEIGHT_BITS = 7
"""Bits of a weight in an int8 product that no CPU overflows with."""
WIDE_INT8 = "int8-vnni"
"""What int8 with weights of 8 bits is called: it is for CPUs with VNNI, and Arm's."""
INT8_EMBEDDINGS = " with int8 embeddings"
"""What `Variant.arithmetic` says behind the precision."""


@dataclass(frozen=True)
class ModelFile:
    """The file of one graph in one variant.

    Attributes:
        file: its name, as in "model.onnx"; large weights lie beside it.
        fingerprint: SHA-256 of the graph and its weights; the file carries the same.
        shared: names of files with weights that other variants hold too, and take from there as well.
    """

    file: str
    fingerprint: str
    shared: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The file, where its weights lie if they are not in it, and where those that it shares lie."""
        return self.file, data_file(self.file), *self.shared

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a folder that holds several."""
        shared = {"shared": list(self.shared)} if self.shared else {}
        return {"file": self.file, "fingerprint": self.fingerprint, **shared}


@dataclass(frozen=True)
class Variant:
    """One of the forms in which a folder holds its model.

    Attributes:
        precision: as in "fp32" or "int8".
        weight_bits: bits of a weight in an int8 product; None where there is none, or an earlier writer did not say.
        opset: ONNX operator-set version.
        ir_version: ONNX file-format version.
        models: file of every graph, by the graph's name.
        disabled_optimizers: onnxruntime graph optimizers that cost time on `provider`; its session switches them off.
        provider: onnxruntime's name of the execution provider it was made for.
        parity: the exporter's comparison with PyTorch: "max_abs", "max_rel", "tolerance", "cases"; and "cosine",
            "top1_agreement", "batch_mates" and "vectors" where the exporter wrote them. None where there was none
            yet: only a folder that is being made.
        accuracy: right answers on labelled texts; None where there were none.
        times: median milliseconds of a call, by what it was called with; None where nobody measured.
        mixes_texts: whether a text's numbers hang on the others of its batch beyond the order of sums.
        embeddings: "int8" where the export rounded embedding tables to int8 rows; None where it left them.
        plan: name of the file that says the form of every layer.
        gates: what it had to reach to be shipped, and did; none where nobody asked for anything.
    """

    precision: str
    weight_bits: int | None
    opset: int
    ir_version: int
    models: Mapping[str, ModelFile]
    disabled_optimizers: tuple[str, ...]
    provider: str = DEFAULT_PROVIDER
    parity: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] | None = None
    times: Mapping[str, float] | None = None
    mixes_texts: bool = False
    embeddings: str | None = None
    plan: str = PLAN_FILE
    gates: tuple[PassedGate, ...] = ()

    @property
    def own_name(self) -> str:
        """What it is called where a folder gives it no name: its precision, or `WIDE_INT8`."""
        return WIDE_INT8 if self.precision == _MIXES and self.wide else self.precision

    @property
    def arithmetic(self) -> str:
        """What rounds its numbers: the precision, and whether embedding tables were rounded beside it."""
        return self.precision if self.embeddings is None else f"{self.precision}{INT8_EMBEDDINGS}"

    @property
    def wide(self) -> bool:
        """Whether an int8 product of it overflows on CPUs without VNNI."""
        return self.weight_bits is not None and self.weight_bits > SAFE_WEIGHT_BITS

    def numbers(self) -> dict[str, Any]:
        """Return precision and versions as JSON values."""
        bits = {} if self.weight_bits is None else {"weight_bits": self.weight_bits}
        mixes = {} if self.mixes_texts == (self.precision == _MIXES) else {"mixes_texts": self.mixes_texts}
        tables = {} if self.embeddings is None else {"embeddings": self.embeddings}
        versions = {"opset": self.opset, "ir_version": self.ir_version}
        return {"precision": self.precision, **bits, **mixes, **tables, **versions}

    def measured(self) -> dict[str, Any]:
        """Return accuracy, times and gates as JSON values, those that there are."""
        found = {"accuracy": self.accuracy, "times": self.times}
        gates = {"gates": [asdict(gate) for gate in self.gates]} if self.gates else {}
        return {name: dict(value) for name, value in found.items() if value is not None} | gates

    def to_json(self) -> dict[str, Any]:
        """Return the entry of a folder that holds several."""
        return {
            **self.numbers(),
            "graphs": {name: model.to_json() for name, model in self.models.items()},
            **({} if self.plan == PLAN_FILE else {"plan": self.plan}),
            "session": self.session_json(),
            "parity": self.parity_json(),
            **self.measured(),
        }

    def session_json(self) -> dict[str, Any]:
        """Return the options of onnxruntime's session as JSON values."""
        other = {} if self.provider == DEFAULT_PROVIDER else {"provider": self.provider}
        return {"disabled_optimizers": list(self.disabled_optimizers), **other}

    def parity_json(self) -> dict[str, Any] | None:
        """Return the comparison with PyTorch as JSON values."""
        return None if self.parity is None else dict(self.parity)


def parse_variant(fields: Fields, models: Mapping[str, ModelFile]) -> Variant:
    """Read what is said of one variant.

    Args:
        fields: of the object that holds it: the whole file, or one of "variants".
        models: file of every graph.

    Raises:
        FolderError: a field is missing or of the wrong type.
    """
    session = fields.object("session")
    return Variant(
        precision=fields.text("precision"),
        weight_bits=fields.integer("weight_bits", 1) if "weight_bits" in fields.data else None,
        opset=fields.integer("opset", 1),
        ir_version=fields.integer("ir_version", 1),
        models=models,
        disabled_optimizers=session.texts("disabled_optimizers"),
        provider=session.text("provider") if "provider" in session.data else DEFAULT_PROVIDER,
        parity=None if fields.is_null("parity") else _parity(fields.object("parity")),
        accuracy=fields.object("accuracy").data if "accuracy" in fields.data else None,
        times=_times(fields.object("times")) if "times" in fields.data else None,
        mixes_texts=fields.flag("mixes_texts") if "mixes_texts" in fields.data else fields.text("precision") == _MIXES,
        embeddings=fields.choice("embeddings", ("int8",)) if "embeddings" in fields.data else None,
        plan=fields.text("plan") if "plan" in fields.data else PLAN_FILE,
        gates=tuple(map(parse_gate, fields.objects("gates"))) if "gates" in fields.data else (),
    )


def parse_models(fields: Fields) -> dict[str, ModelFile]:
    """Read the files of a variant's graphs.

    Raises:
        FolderError: a field is missing or of the wrong type.
    """
    entries = {name: fields.object(name) for name in fields.data}
    return {name: _model_file(entry) for name, entry in entries.items()}


def _model_file(entry: Fields) -> ModelFile:
    shared = entry.texts("shared") if "shared" in entry.data else ()
    file = entry.text("file")
    if not file.endswith(".onnx"):  # by another ending onnxruntime takes it for a format that nothing here reads
        entry.fail("file", "a name that ends in .onnx")
    return ModelFile(file, entry.digest("fingerprint"), shared)


def data_file(file: str) -> str:
    """Return the name of the file that holds the weights of a graph's file where they are large."""
    return f"{file}.data"


# Of the parts of "parity": the least that each of their numbers can be.
_AGREEMENTS = {
    "batch_mates": {"max_abs": 0.0, "cosine": -1.0, "top1_agreement": 0.0},
    "vectors": {"mean_cosine": -1.0, "worst_cosine": -1.0, "rank_agreement": -1.0},
}


def _parity(fields: Fields) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: fields.number(name) for name in ("max_abs", "max_rel", "tolerance")}
    for name, minimum in (("cosine", -1.0), ("top1_agreement", 0.0)):
        if name in fields.data:  # earlier writers had neither
            numbers[name] = fields.number(name, minimum)
    parts: dict[str, Any] = {"cases": [case.data for case in fields.objects("cases")]}
    for name, least in _AGREEMENTS.items():
        if name in fields.data:
            part = fields.object(name)
            counted = {"texts": part.integer("texts", 1)}
            parts[name] = {key: part.number(key, minimum) for key, minimum in least.items()} | counted
    return {**numbers, **parts}


def _times(fields: Fields) -> dict[str, float]:
    return {call: fields.number(call) for call in fields.data}
