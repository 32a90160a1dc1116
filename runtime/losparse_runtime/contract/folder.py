"""`losparse.json`: what an exported folder holds, read strictly, and written by the same file.

    Folder -- graphs, by name: one ("model"), or several, as an encoder and a decoder
           -- variants, by name: one model in several precisions
           -- and what they have in common: source, task, labels, how texts are read

A folder of one graph in one variant is written as earlier versions wrote it, its facts side by side; the format number
is then 1 to 3, the oldest whose readers do right by it. Where there are several, or the task is one that those readers
do not know, it is 4, and each has its own object.

A field that is missing or of the wrong type is an error. A field this version does not know is skipped: writers may add
fields within a format version, and raise the version when an older reader would go wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import FolderError
from .embedding import Embedding, parse_embedding, parse_pooling
from .fields import Fields
from .gates import PassedGate
from .records import FileRecord, parse_records
from .signature import Signature, parse_signature
from .task import FEATURE_EXTRACTION, QUESTION_ANSWERING, TASKS, TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION
from .tensors import TOKENS
from .variant import MODEL_FILE, PLAN_FILE, ModelFile, Variant, parse_models, parse_variant

_PLAIN, _WIDE, _EMBEDDING, SEVERAL = 1, 2, 3, 4
"""Formats: the first; of folders that a reader must refuse on some machines, which those of the first do not know of;
of those whose vectors an older reader would make without their prompt, or too long; of several graphs or variants, and
of tasks that are newer."""
FORMATS = (_PLAIN, _WIDE, _EMBEDDING, SEVERAL)
_FIRST_TASKS = (TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING, FEATURE_EXTRACTION)
"""Those that readers of the formats below `SEVERAL` know."""
MODEL_GRAPH = "model"
"""Name of a graph that is alone."""
FINGERPRINT_KEY = "losparse.fingerprint"
DESCRIPTION_KEY = "losparse.description"  # what the graph itself carries of losparse.json, as JSON


@dataclass(frozen=True)
class Source:
    """The model that was exported.

    Attributes:
        model: folder name or hub id.
        model_type: the configuration's word for the family, as in "bert".
        architecture: class name of the PyTorch model.
        compressed: whether it had factored layers.
        method: the compression method and its settings; None for a dense model.
    """

    model: str
    model_type: str
    architecture: str
    compressed: bool
    method: Mapping[str, Any] | None


@dataclass(frozen=True)
class Folder:
    """The contents of `losparse.json`.

    Attributes:
        task: a key of `TASKS`, of a task that is exported.
        source: the model that was exported.
        graphs: what each takes and gives, in every variant the same, by name; the first is the one that reads a text.
        variants: by name, the first is what opens by default.
        files: every file of the folder but this one, by its path inside, as in "1_Pooling/config.json"; earlier writers
            listed the model's files alone.
        labels: class names by class id; None where the task has none.
        max_length: positions the model has, in tokens.
        type_ids: whether the second text of a pair has other token types than the first, as it had in training.
        pooling: how feature extraction turns tokens into one vector: as `scoring.pool` names it, or None.
        normalize: whether that vector is scaled to length 1.
        embedding: what else is done to make a vector of a text; None for other tasks, and from the first writers.
        parameters: counts: "model", "layers", "layers_dense".
        versions: of the packages that wrote the folder.
    """

    task: str
    source: Source
    graphs: Mapping[str, Signature]
    variants: Mapping[str, Variant]
    files: Mapping[str, FileRecord]
    labels: tuple[str, ...] | None
    max_length: int
    type_ids: bool
    pooling: str | None
    normalize: bool
    embedding: Embedding | None
    parameters: Mapping[str, int]
    versions: Mapping[str, str]

    @property
    def plain(self) -> bool:
        """Whether formats 1 to 3 can say it: one graph in one variant under their names, and a task of theirs."""
        if TASKS[self.task] not in _FIRST_TASKS:
            return False
        kept = self.variants.values()
        names = [(graph, model.file, *model.shared) for each in kept for graph, model in each.models.items()]
        if list(self.graphs) != [MODEL_GRAPH] or names != [(MODEL_GRAPH, MODEL_FILE)]:
            return False
        return list(self.variants) == [each.own_name for each in kept] and {each.plan for each in kept} == {PLAN_FILE}

    @property
    def model_bytes(self) -> int:
        """Size of all graphs and their weights, in all variants."""
        return sum(self.files[name].bytes for name in self.model_files(*self.variants))

    def model_files(self, *variants: str) -> tuple[str, ...]:
        """Return the names of the files that hold the graphs and weights of some variants, each once.

        Args:
            variants: of `variants`.
        """
        models = (model for variant in variants for model in self.variants[variant].models.values())
        names = dict.fromkeys(name for model in models for name in model.names)
        return tuple(name for name in names if name in self.files)

    @property
    def format(self) -> int:
        """The oldest format version whose readers do right by the folder."""
        return self._plain_format(next(iter(self.variants.values()))) if self.plain else SEVERAL

    def description(self, variant: str, graph: str) -> dict[str, Any]:
        """Return what the file of a graph carries of this: what it was exported as, without what is known later.

        Args:
            variant: one of `variants`.
            graph: one of `graphs`.

        Returns:
            JSON values as formats 1 to 3 have them, without files and measurements.
        """
        chosen = self.variants[variant]
        return {
            "format": self._plain_format(chosen),
            "task": self.task,
            "source": asdict(self.source),
            **chosen.numbers(),
            **self.graphs[graph].to_json(),
            **self._reading(),
            "session": chosen.session_json(),
            "parameters": dict(self.parameters),
            "versions": dict(self.versions),
            "fingerprint": chosen.models[graph].fingerprint,
        }

    def measured(
        self,
        variant: str | None = None,
        *,
        parity: Mapping[str, Any] | None = None,
        accuracy: Mapping[str, Any] | None = None,
        times: Mapping[str, float] | None = None,
        gates: tuple[PassedGate, ...] | None = None,
    ) -> Folder:
        """Return the folder with what was measured of one of its variants, the first by default.

        Args:
            variant: one of `variants`.
            parity: see `Variant`; None to leave it as it is, as with the others.
            accuracy: see `Variant`.
            times: see `Variant`.
            gates: see `Variant`.
        """
        name = next(iter(self.variants)) if variant is None else variant
        old = self.variants[name]
        new = replace(
            old,
            parity=parity or old.parity,
            accuracy=accuracy or old.accuracy,
            times=times or old.times,
            gates=gates or old.gates,
        )
        return replace(self, variants={**self.variants, name: new})

    def to_json(self) -> dict[str, Any]:
        """Return the contents of `losparse.json`, which `parse_folder` reads."""
        files = {"files": {name: asdict(record) for name, record in self.files.items()}}
        if self.plain:
            name, variant = next(iter(self.variants.items()))
            parity = {"parity": variant.parity_json()}
            return {**self.description(name, MODEL_GRAPH), **parity, **files, **variant.measured()}
        return {
            "format": SEVERAL,
            "task": self.task,
            "source": asdict(self.source),
            "graphs": {name: graph.to_json() for name, graph in self.graphs.items()},
            **self._reading(),
            "parameters": dict(self.parameters),
            "versions": dict(self.versions),
            "variants": {name: variant.to_json() for name, variant in self.variants.items()},
            **files,
        }

    def _plain_format(self, variant: Variant) -> int:
        settings = self.embedding or Embedding()
        if settings.prompt() or settings.truncate_dim is not None:
            return _EMBEDDING
        return _WIDE if variant.wide else _PLAIN

    def _reading(self) -> dict[str, Any]:
        """Return how texts are read, and what answers are called, as JSON values."""
        return {
            "labels": None if self.labels is None else list(self.labels),
            "max_length": self.max_length,
            "type_ids": self.type_ids,
            "pooling": self.pooling,
            "normalize": self.normalize,
            **({} if self.embedding is None else {"embedding": asdict(self.embedding)}),
        }


def parse_folder(fields: Fields) -> Folder:
    """Check every field of `losparse.json` and the agreement between them.

    Args:
        fields: the file's object.

    Returns:
        The checked contents.

    Raises:
        FolderError: the format version is not one of these; a field is missing, of the wrong type, or contradicts
            another.
    """
    several = _format(fields) == SEVERAL
    graphs, variants = _several(fields) if several else _one(fields)
    folder = Folder(
        task=fields.choice("task", tuple(TASKS)),
        source=_source(fields.object("source")),
        graphs=graphs,
        variants=variants,
        files=_files(fields.object("files"), variants),
        labels=None if fields.is_null("labels") else fields.texts("labels"),
        max_length=fields.integer("max_length", 1),
        type_ids=fields.flag("type_ids") if "type_ids" in fields.data else True,
        pooling=parse_pooling(fields),
        normalize=fields.flag("normalize"),
        embedding=parse_embedding(fields.object("embedding")) if "embedding" in fields.data else None,
        parameters=_parameters(fields.object("parameters")),
        versions=_versions(fields.object("versions")),
    )
    _check_agreement(folder, fields.file)
    return folder


def _format(fields: Fields) -> int:
    version = fields.integer("format", 1)
    if version not in FORMATS:
        known = f"{FORMATS[0]} to {FORMATS[-1]}"
        raise FolderError(
            f"{fields.file}: field 'format' is {version}, this losparse_runtime reads {known}: "
            "a newer losparse wrote the folder; pip install --upgrade losparse, or export it again with this version"
        )
    return version


def _one(fields: Fields) -> tuple[dict[str, Signature], dict[str, Variant]]:
    """Read one graph in one variant, whose facts stand beside those of the folder."""
    models = {MODEL_GRAPH: ModelFile(MODEL_FILE, fields.digest("fingerprint"))}
    variant = parse_variant(fields, models)
    return {MODEL_GRAPH: parse_signature(fields)}, {variant.own_name: variant}


def _several(fields: Fields) -> tuple[dict[str, Signature], dict[str, Variant]]:
    graphs = {name: parse_signature(entry) for name, entry in fields.entries("graphs")}
    variants = {
        name: parse_variant(entry, parse_models(entry.object("graphs"))) for name, entry in fields.entries("variants")
    }
    for name, variant in variants.items():
        if variant.models.keys() != graphs.keys():
            raise FolderError(
                f"{fields.file}: variant {name!r} must have the graphs {', '.join(graphs)}, got "
                f"{', '.join(variant.models) or 'none'}; export the folder again with `losparse export`"
            )
    return graphs, variants


def _source(fields: Fields) -> Source:
    return Source(
        model=fields.text("model"),
        model_type=fields.text("model_type"),
        architecture=fields.text("architecture"),
        compressed=fields.flag("compressed"),
        method=None if fields.is_null("method") else fields.object("method").data,
    )


def _files(fields: Fields, variants: Mapping[str, Variant]) -> dict[str, FileRecord]:
    records = parse_records(fields)
    for variant in variants.values():
        if variant.plan != PLAN_FILE and variant.plan not in records:
            fields.fail(variant.plan, "an object")
    for model in (model for variant in variants.values() for model in variant.models.values()):
        for name in (model.file, *model.shared):
            if name not in records:
                fields.fail(name, "an object")
    return records


def _parameters(fields: Fields) -> dict[str, int]:
    return {name: fields.integer(name, 0) for name in ("model", "layers", "layers_dense")}


def _versions(fields: Fields) -> dict[str, str]:
    return {name: fields.text(name) for name in fields.data}


def _check_agreement(folder: Folder, file: Path) -> None:
    """Refuse fields that are right one by one and wrong together."""
    outputs = {spec.name: spec for graph in folder.graphs.values() for spec in graph.outputs}
    task = TASKS[folder.task]
    for name in task.outputs:
        if name not in outputs:
            raise FolderError(
                f"{file}: field 'outputs' must have {name!r} for task {folder.task}, got {', '.join(outputs)}"
            )
    reader = next(iter(folder.graphs.values()))
    ids = next((spec for spec in reader.inputs if spec.role == "tokens"), None)
    if ids is None or len(ids.shape) != 2:
        raise FolderError(f"{file}: field 'inputs' must have {TOKENS!r} with the two axes batch and sequence")
    if not task.names_classes:
        return
    (logits,) = task.outputs
    classes = outputs[logits].shape[-1:]
    if folder.labels is None or classes != (len(folder.labels),):
        got = "none" if folder.labels is None else f"{len(folder.labels)}"
        raise FolderError(
            f"{file}: field 'labels' must name every class of output {logits!r}, whose shape is "
            f"{list(outputs[logits].shape)}, got {got}"
        )
