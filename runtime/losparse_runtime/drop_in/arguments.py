"""Arguments of sentence-transformers that stand for others here, or for nothing that is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contract.files import read_folder
from ..contract.variant import DEFAULT_PROVIDER
from ..engine.options import Provider
from ..errors import InputError
from ..session import Session

_DEVICES = {DEFAULT_PROVIDER: "cpu", "CUDAExecutionProvider": "cuda"}
"""PyTorch's word for where a provider computes."""

_WAY_OUT = {
    "backend": 'the model is an ONNX file already; leave it out, or give "onnx"',
    "cache_folder": "give a folder; huggingface_hub.snapshot_download(repo, cache_dir=...) returns one",
    "chunk_size": "one process reads all texts; use batch_size",
    "config_kwargs": "an exported model has no settings to change; export it again",
    "convert_to_numpy": "there is no torch here; take numpy and call torch.from_numpy",
    "convert_to_tensor": "there is no torch here; take numpy and call torch.from_numpy",
    "local_files_only": "nothing is ever fetched here; leave it out",
    "modules": "an exported folder has its modules; give the folder alone",
    "pool": "one process reads all texts; use threads=, or open an encoder in every process",
    "processor_kwargs": "the folder's tokenizer is used as it is; set max_seq_length on the encoder",
    "prompt": "a cross-encoder's prompt is no part of an exported folder; put it in front of the texts",
    "prompt_name": "a cross-encoder's prompt is no part of an exported folder; put it in front of the texts",
    "revision": "give a folder; huggingface_hub.snapshot_download(repo, revision=...) returns one",
    "token": "give a folder; huggingface_hub.snapshot_download(repo, token=...) returns one",
    "trust_remote_code": "no code of a folder is ever run; leave it out",
}


def refuse(owner: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what cannot be honoured; an argument that asks for nothing (None, False, nothing in it) may be there.

    Args:
        owner: what was called, as in "SentenceEncoder.encode".
        arguments: by name.

    Raises:
        InputError: one asks for something, or sentence-transformers has none of its name.
    """
    for name, value in arguments.items():
        if name not in _WAY_OUT:
            raise InputError(f"{owner} has no argument {name!r}; leave it out")
        if value is not None and value is not False and value != {}:
            raise InputError(f"{owner} cannot honour {name}={value!r}: {_WAY_OUT[name]}")


def require_arrays(owner: str, *, convert_to_numpy: bool, convert_to_tensor: bool) -> None:
    """Refuse results of torch.

    Raises:
        InputError: they are asked for.
    """
    if not convert_to_numpy and not convert_to_tensor:
        raise InputError(f"{owner} cannot honour convert_to_numpy=False: {_WAY_OUT['convert_to_numpy']}")
    refuse(owner, {"convert_to_tensor": convert_to_tensor})


@dataclass(frozen=True)
class Opening:
    """How a folder is to be opened.

    Attributes:
        device: "cpu" or "cuda", as PyTorch calls it; None for what `providers` says.
        backend: "onnx", or nothing.
        model_kwargs: "file_name" of a variant, "provider", as sentence-transformers hands them to its ONNX backend.
        providers: see `Session`; None for `device`, or the CPU.
        threads: see `Session`.
        variant: see `Session`.
        batch_invariant: see `Session`.
        verify: see `Session`.
    """

    device: object = None
    backend: str | None = None
    model_kwargs: Mapping[str, Any] | None = None
    providers: Sequence[Provider] | None = None
    threads: int | None = None
    variant: str | None = None
    batch_invariant: bool = False
    verify: bool | Path | str = False

    def open(self, owner: str, folder: Path | str | Session) -> Session:
        """Open a folder; a session that is open already is taken as it is.

        Raises:
            InputError: two arguments contradict each other, or one cannot be honoured.
            FolderError: see `Session`.
            ProviderError: see `Session`.
        """
        refuse(owner, {"backend": None if self.backend == "onnx" else self.backend})
        if isinstance(folder, Session):
            if self != Opening(device=self.device, backend=self.backend):
                raise InputError(f"{owner} got an open session, which has its options already; leave the others out")
            check_device(owner, self.device, folder)
            return folder
        given = dict(self.model_kwargs or {})
        file, provider = given.pop("file_name", None), given.pop("provider", None)
        if given:
            raise InputError(f"{owner}: model_kwargs may have file_name and provider, got {next(iter(given))!r}")
        variant = self.variant if file is None else _variant_of(owner, folder, file, self.variant)
        session = Session(
            folder,
            self._providers(owner, provider),
            self.threads,
            batch_invariant=self.batch_invariant,
            variant=variant,
            verify=self.verify,
        )
        check_device(owner, self.device, session)
        return session

    def _providers(self, owner: str, provider: str | None) -> Sequence[Provider]:
        if provider is not None and self.providers is not None:
            raise InputError(f"{owner} takes providers= or model_kwargs['provider'], not both")
        if provider is not None:
            return (provider,)
        if self.providers is not None:
            return self.providers
        asked = str(self.device)
        return next(((name,) for name, device in _DEVICES.items() if device == asked), (DEFAULT_PROVIDER,))


def _variant_of(owner: str, folder: Path | str, file: str, variant: str | None) -> str:
    """Return the variant that a file name means, in the folder or in its folder `onnx`."""
    if variant is not None:
        raise InputError(f"{owner} takes variant= or model_kwargs['file_name'], not both")
    variants = read_folder(folder).variants
    files = {model.file: name for name, each in variants.items() for model in each.models.values()}
    found = files.get(str(file), files.get(f"onnx/{file}"))
    if found is None:
        raise InputError(f"{folder}: file_name must be one of {', '.join(files)}, got {file!r}")
    return found


def check_device(owner: str, device: object, session: Session) -> None:
    """Refuse a device other than that of the session.

    Raises:
        InputError: it is another one, or there are several.
    """
    here = _DEVICES.get(session.providers[0], session.providers[0])
    if device is not None and str(device) != here:
        raise InputError(f"{owner} computes on {here}, got device={device!r}; choose it when opening, by providers=")
