"""A model of NVIDIA Triton's repository, made of an exported folder.

    OUT/NAME/config.pbtxt    for Triton
    OUT/NAME/README.md       for those who send requests
    OUT/NAME/1/model.onnx    its weights, and the rest of the exported folder: the tokenizer, losparse.json

A version folder is an exported folder of one variant: `Session("OUT/NAME/1")` opens it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..contract.fields import read_json
from ..contract.files import METADATA_FILE, TOKENIZER_CONFIG_FILE, read_folder
from ..contract.folder import Folder
from ..contract.metadata import Metadata, select
from ..contract.signature import Signature
from ..engine.alone import depends_on_batch
from ..engine.choice import choose_variant
from ..engine.cpus import CPU_AVX2
from ..errors import FolderError, InputError
from .config import CONFIG_FILE, config_text, is_batched
from .contents import write_variant
from .note import NOTE_FILE, Facts, note_text, remarks
from .settings import PROVIDERS, TritonSettings, is_name
from .staging import put_folder, replaced, work_folder


@dataclass(frozen=True)
class TritonModel:
    """What was written.

    Attributes:
        folder: of the model, in the repository.
        version: of the model.
        variant: that it is.
        batching: whether requests share a run, and why not where they do not; one line.
        remarks: what differs from a session of ours, and which image of Triton is needed; a line each.
        bytes: size of every file of the version, by name.
    """

    folder: Path
    version: int
    variant: str
    batching: str
    remarks: tuple[str, ...]
    bytes: dict[str, int]


def package_triton(folder: Path | str, out: Path | str, settings: TritonSettings | None = None) -> TritonModel:
    """Put an exported folder into a model repository of Triton, as a new model or a new version of one.

    Args:
        folder: an exported ONNX folder.
        out: the repository; it is made where there is none. Several models may lie in one.
        settings: how it is to be served; default: all defaults.

    Raises:
        InputError: the settings name what there is not, or what is there already.
        FolderError: the folder is damaged, `out` cannot be written, or holds another model of that name.
    """
    folder, out, settings = Path(folder), Path(out), settings or TritonSettings()
    contents = read_folder(folder)
    metadata = _chosen(folder, contents, settings)
    name = _name(folder, settings)
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"OUT '{out}' must lie outside of {folder}, which is read; choose another")
    model = out / name
    version = _version(model, metadata, settings)
    why_alone = _why_alone(folder, metadata, settings)
    facts = Facts(name, version, metadata, settings, why_alone)
    with work_folder(out) as work:
        texts = {
            CONFIG_FILE: config_text(
                name, metadata.signature, settings, joined=why_alone is None, remarks=remarks(facts)
            ),
        }
        made = write_variant(folder, metadata, _made(work / str(version)), copy=settings.copy)
        texts[NOTE_FILE] = note_text(facts, work / str(version))
        _put(work, model, version, texts, overwrite=settings.overwrite)
    return TritonModel(
        model,
        version,
        metadata.variant_name,
        facts.batching,
        remarks(facts),
        {name: record.bytes for name, record in made.files.items()},
    )


def _put(work: Path, model: Path, version: int, texts: dict[str, str], *, overwrite: bool) -> None:
    """Put a new model, or a version of one: its configuration first, since the version's coming is what Triton sees."""
    if model.exists():
        with replaced(model, texts):
            put_folder(work / str(version), model / str(version), overwrite=overwrite)
        return
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8")
    put_folder(work, model)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _chosen(folder: Path, contents: Folder, settings: TritonSettings) -> Metadata:
    """Choose the variant: the one asked for, or the best of those that are right on every CPU.

    Which machine Triton will run on nobody knows here, and Triton opens what would overflow there.
    """
    name = settings.variant
    if name is None:
        providers = [PROVIDERS[settings.provider]]
        name = choose_variant(contents, CPU_AVX2, providers, invariant=not settings.mixed).name
    try:
        metadata = select(contents, name)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    if metadata.parity is None:
        raise FolderError(
            f"{folder}: losparse.json has no comparison with PyTorch ('parity' is null) for {name}; "
            "export it again with `losparse export`"
        )
    return metadata


def _name(folder: Path, settings: TritonSettings) -> str:
    name = folder.resolve().name if settings.name is None else settings.name
    if not is_name(name):
        raise InputError(f"folder name {name!r} is no name of a model for Triton; give one with name= (--name)")
    return name


def _why_alone(folder: Path, metadata: Metadata, settings: TritonSettings) -> str | None:
    """Say why a run must have one text; None where requests may share one."""
    if not is_batched(metadata.signature):
        return "not all of its tensors have an axis of texts"
    file = folder / TOKENIZER_CONFIG_FILE
    side = str(read_json(file).data.get("padding_side", "right")) if file.is_file() else "right"
    if settings.mixed or not depends_on_batch(metadata, side):
        return None
    return "its answers would depend on the other texts of a run"


def _version(model: Path, metadata: Metadata, settings: TritonSettings) -> int:
    """Return the number of the new version, of a model that is new or has the same inputs and outputs.

    Raises:
        InputError: that version is there, or the newest one is the same model.
        FolderError: what is there has another interface, or is not of this package.
    """
    if not model.exists():
        return settings.version or 1
    versions = _versions(model)
    newest = max(versions)
    held = _read(model, newest)
    if _interface(held.graphs[next(iter(held.graphs))]) != _interface(metadata.signature):
        raise FolderError(
            f"{model}: version {newest} has other inputs or outputs, and Triton has one configuration for all of them; "
            "choose another name (--name)"
        )
    if settings.version is None:
        (variant,) = held.variants.values()
        if variant.models[next(iter(held.graphs))].fingerprint == metadata.fingerprint:
            raise InputError(
                f"{model}: version {newest} is this model already; to write it again give version={newest} and "
                f"overwrite=True (--version {newest} --overwrite)"
            )
        return newest + 1
    if settings.version in versions and not settings.overwrite:
        raise InputError(
            f"{model}: version {settings.version} is there; leave the version out for {newest + 1}, or replace it with "
            "overwrite=True (--overwrite)"
        )
    return settings.version


def _versions(model: Path) -> list[int]:
    """Return the versions of a model, as Triton counts them: folders whose name is a number without a leading 0."""
    names = [path.name for path in model.iterdir() if path.is_dir()] if model.is_dir() else []
    found = [int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0"]
    if not found or not (model / CONFIG_FILE).is_file():
        raise FolderError(f"{model}: is there, and is no model of Triton's; choose another name (--name), or remove it")
    return found


def _read(model: Path, version: int) -> Folder:
    folder = model / str(version)
    if not (folder / METADATA_FILE).is_file():
        raise FolderError(
            f"{folder}: has no {METADATA_FILE}, so losparse did not write it; choose another name (--name)"
        )
    return read_folder(folder)


def _interface(signature: Signature) -> dict[str, list[tuple[str, str, tuple[int | None, ...]]]]:
    """Return what a configuration says of a graph: names, types and axes, whatever the free ones are called."""
    return {
        kind: [
            (spec.name, spec.dtype, tuple(axis if isinstance(axis, int) else None for axis in spec.shape))
            for spec in specs
        ]
        for kind, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }
