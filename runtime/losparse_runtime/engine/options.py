"""How a model is to be opened: providers with their options, threads, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..contract.variant import DEFAULT_PROVIDER
from ..errors import InputError, ProviderError

MOST_THREADS = 1024
"""Far above what any machine has a use for; onnxruntime starts as many as it is told, until the machine stands."""

FAST, FLAT = "fast", "flat"
MEMORY = (FAST, FLAT)
"""What onnxruntime may keep for intermediate results between runs of different shapes; see `Options`."""

Provider = str | tuple[str, Mapping[str, Any]]
"""onnxruntime's name of an execution provider, or that and options of it, as onnxruntime itself takes them."""


@dataclass(frozen=True)
class Options:
    """How to open a model.

    Attributes:
        providers: full onnxruntime names, most wanted first.
        threads: intra-op threads, >= 1.
        allow_fallback: run on the CPU where a provider is not there, instead of an error.
        spinning: idle threads wait busily: lowest latency for one model alone on its cores.
        variant: which form of the model, where a folder holds several; None for the one that `chosen` finds.
        graph: which graph, where a model has several; None for the first.
        unchecked: open a model that was not compared with PyTorch yet; for the exporter, which compares it.
        settings: options of providers as texts, by provider and name; providers without any may be left out.
        cpu_nodes: let nodes that the providers do not have run on the CPU; False refuses a model that has such nodes.
        verify: see `Session`; the file of a key as a text.
        memory: what is kept for intermediate results. "fast" plans one block for each shape, which is best for few
            shapes and grows with many; "flat" plans none, and keeps what the largest run so far needed.
        batch_invariant: no text may change what is said of another of its batch; the variant is chosen by it.
    """

    providers: tuple[str, ...]
    threads: int
    allow_fallback: bool = False
    spinning: bool = True
    variant: str | None = None
    graph: str | None = None
    unchecked: bool = False
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cpu_nodes: bool = True
    verify: bool | str = False
    memory: str = FAST
    batch_invariant: bool = False

    def __post_init__(self) -> None:
        """Check the thread count, and what may not go together."""
        whole = isinstance(self.threads, int) and not isinstance(self.threads, bool)
        if not whole or not 1 <= self.threads <= MOST_THREADS:
            raise InputError(
                f"threads must be a whole number >= 1, got {self.threads!r}; leave it out for all CPUs granted"
                if not whole or self.threads < 1
                else f"threads must be at most {MOST_THREADS}, got {self.threads}; leave it out for all CPUs granted"
            )
        if self.memory not in MEMORY:
            raise InputError(f"memory must be one of {', '.join(MEMORY)}, got {self.memory!r}")
        if not self.cpu_nodes and (DEFAULT_PROVIDER in self.providers or self.allow_fallback):
            raise InputError(
                f"cpu_nodes=False refuses nodes on the CPU, so neither {DEFAULT_PROVIDER} nor allow_fallback=True goes "
                f"with it, got providers {list(self.providers)} and allow_fallback={self.allow_fallback}"
            )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `Session` that mean the same, as JSON values."""
        providers = [[name, dict(self.settings[name])] if name in self.settings else name for name in self.providers]
        left_out = ("providers", "settings")
        kept = (each.name for each in fields(self) if each.name not in left_out)
        return {"providers": providers, **{name: getattr(self, name) for name in kept}}


def provider_settings(providers: Sequence[Provider]) -> dict[str, dict[str, str]]:
    """Check the form of a list of providers.

    Args:
        providers: names, or pairs of a name and options; most wanted first.

    Returns:
        Options of every provider as texts, by its name, in order.

    Raises:
        ProviderError: it is a bare string, empty, holds something else, a name twice, or an option that is neither a
            text nor a number.
    """
    if isinstance(providers, str):
        raise ProviderError(f"providers must be a list of names, got the string {providers!r}; write [{providers!r}]")
    given = list(providers)
    pairs = [(each, {}) if isinstance(each, str) else each for each in given]
    right = all(
        isinstance(each, tuple | list) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], Mapping)
        for each in pairs
    )
    if not pairs or not right or len({name for name, _ in pairs}) != len(pairs):
        raise ProviderError(
            f"providers must be names, at least one and each once, as in [{DEFAULT_PROVIDER!r}] or "
            f"[('CUDAExecutionProvider', {{'device_id': 0}})], got {given!r}"
        )
    return {name: {str(key): _text(name, key, value) for key, value in options.items()} for name, options in pairs}


def _text(provider: str, key: object, value: object) -> str:
    if not isinstance(key, str) or not isinstance(value, str | int | float):
        raise ProviderError(f"options of {provider} must be texts or numbers by name, got {key!r}: {value!r}")
    return str(value)


def parse_provider(text: str) -> Provider:
    """Read a provider as a command line has it: NAME, or NAME:option=value,option=value.

    A part without "=" belongs to the value before it, since values of TensorRT and OpenVINO have commas in them.

    Raises:
        ProviderError: there is no name, or something behind the colon that is no option.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, str] = {}
    last = ""
    for part in rest.split(",") if colon else ():
        key, equals, value = part.partition("=")
        if not name.strip() or (equals and (not key.strip() or key.strip() in options)) or (not equals and not last):
            raise ProviderError(
                f"a provider must be NAME or NAME:option=value,option=value, each option once, got {text!r}"
            )
        if equals:
            last = key.strip()
            options[last] = value
        else:
            options[last] += f",{part}"
    if not name.strip():
        raise ProviderError(f"a provider must be NAME or NAME:option=value,option=value, got {text!r}")
    return (name, options) if colon else name
