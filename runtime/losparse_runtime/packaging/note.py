"""README.md beside `config.pbtxt`: what whoever starts Triton, and whoever asks it, must know; with a client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from ..contract.config import read_model_config
from ..contract.files import TOKENIZER_FILE
from ..contract.metadata import Metadata
from ..contract.task import TASKS
from ..contract.tensors import TensorSpec
from ..engine.alone import variant_mixes
from ..errors import TokenizerError
from ..text.encoder import TextEncoder
from .config import is_batched
from .settings import PROVIDERS, TritonSettings

NOTE_FILE = "README.md"
MULTIPLE = 16
"""Tokens that texts are padded to a multiple of, where requests may share a run: only equal shapes do."""

_IMAGES = ((23, "25.08", "1.23"), (1, "25.05", "1.22"))
"""From which operator set on which image of Triton is needed, and the onnxruntime that it brings (its build.py); the
older of the two is the oldest that we run."""
_INT8_IMAGE = "26.07"
"""The first image with an onnxruntime (1.27) that multiplies int8 rightly on CPUs with AMX; see docs/clients.md."""


@dataclass(frozen=True)
class Facts:
    """What is said of a model.

    Attributes:
        name: of the model.
        version: of the model.
        metadata: of its graph and variant.
        settings: how it is served.
        why_alone: why a run has one text; None where requests share runs.
    """

    name: str
    version: int
    metadata: Metadata
    settings: TritonSettings
    why_alone: str | None

    @property
    def batching(self) -> str:
        """Whether requests share a run, and why not where they do not; one line."""
        if self.why_alone is None:
            mixed = ", though their answers then depend on each other" if self.metadata.variant.mixes_texts else ""
            return f"requests of equal shapes share a run, up to {self.settings.max_batch} texts{mixed}"
        if not is_batched(self.metadata.signature):
            return f"a request is a run: {self.why_alone}"
        return f"a request has one text, and is a run: {self.why_alone}; {self._way_out}"

    @property
    def _way_out(self) -> str:
        """What else can be done; padding on the left concerns every variant."""
        variants = self.metadata.folder.variants if variant_mixes(self.metadata.variant) else {}
        whole = [name for name, variant in variants.items() if not variant_mixes(variant)]
        others = f"take a variant whose answers do not ({', '.join(whole)}), or " if whole else ""
        return f"{others}let them with --mixed"


def remarks(facts: Facts) -> tuple[str, ...]:
    """Return what a configuration cannot say, and what Triton does not check; a line each."""
    return tuple(_remarks(facts))


def _remarks(facts: Facts) -> Iterator[str]:
    metadata, settings = facts.metadata, facts.settings
    image, ort = next((image, ort) for opset, image, ort in _IMAGES if metadata.variant.opset >= opset)
    yield (
        f"opset {metadata.variant.opset}, IR {metadata.variant.ir_version}: Triton {image} or newer "
        f"(onnxruntime {ort}); an export with --opset 18 runs on older ones"
        if image != _IMAGES[-1][1]
        else f"opset {metadata.variant.opset}, IR {metadata.variant.ir_version}: seen on onnxruntime {ort}, "
        f"which Triton {image} brings"
    )
    if settings.provider == "cpu" and metadata.variant.weight_bits is not None:
        yield f"int8 products: Triton {_INT8_IMAGE} or newer; onnxruntime below 1.25 makes wrong ones on CPUs with AMX"
    if metadata.variant.wide:
        yield (
            f"weights of {metadata.weight_bits} bits: for CPUs with VNNI, and Arm's; on others int8 products overflow, "
            "and Triton does not look"
        )
    switched_off = metadata.disabled_optimizers if PROVIDERS[settings.provider] == metadata.provider else ()
    if switched_off:
        yield (
            f"cannot be said to Triton: the optimizers {', '.join(switched_off)} of onnxruntime, which our sessions "
            "switch off to be faster; answers are the same up to rounding"
        )
    if settings.provider == "cpu" and settings.threads != 1:
        yield (
            "cannot be said to Triton: that idle threads do not spin; with several instances or models on a machine "
            "take --threads 1 and more --instances, which leaves no thread to spin"
        )
    if settings.provider == "cpu" and settings.threads is None:
        yield "threads: all cores of the machine, also where a container is granted fewer; say --threads N there"


def note_text(facts: Facts, folder: Path) -> str:
    """Return the contents of README.md.

    Args:
        facts: of the model.
        folder: of the version, written: its tokenizer is read.
    """
    return "\n".join(_lines(facts, folder)) + "\n"


def _lines(facts: Facts, folder: Path) -> Iterator[str]:
    metadata, settings = facts.metadata, facts.settings
    yield f"# {facts.name}"
    yield ""
    yield (
        f"A model for NVIDIA Triton's onnxruntime backend, made of variant {metadata.variant_name} of an export of "
        f"{metadata.source.model}: {metadata.task}, texts of up to {metadata.max_length} tokens. "
        f'`Session("{facts.name}/{facts.version}")` of losparse_runtime opens a version without Triton.'
    )
    yield ""
    yield from (f"- {line[0].upper()}{line[1:]}." for line in (facts.batching, *remarks(facts)))
    yield ""
    yield "## Inputs and outputs"
    yield ""
    yield "| | name | type | shape |"
    yield "|---|---|---|---|"
    for kind, specs in (("input", metadata.inputs), ("output", metadata.outputs)):
        yield from (f"| {kind} | `{spec.name}` | {spec.dtype} | {_shape(spec)} |" for spec in specs)
    yield ""
    if metadata.labels is not None:
        yield f"Classes, in the order of the outputs: {', '.join(metadata.labels)}."
        yield ""
    yield "## Texts"
    yield ""
    if not (folder / TOKENIZER_FILE).is_file():
        yield "The export has no tokenizer: whoever asks brings the tokens."
        return
    if not all(spec.role in _ENCODED and spec.dtype == "int64" for spec in metadata.inputs):
        yield "Its inputs are more than what a tokenizer makes of texts: whoever asks brings them."
        return
    yield (
        "Triton runs tensors and needs no Python. Whoever asks makes the tokens, with the packages numpy, tokenizers "
        "and tritonclient[http], and the tokenizer that lies beside the model:"
    )
    yield ""
    yield "```python"
    yield from _client(facts, folder)
    yield "```"
    yield ""
    yield from _pooled(metadata)
    if facts.why_alone is None:
        yield (
            "Triton joins requests whose shapes are equal; so texts are padded to a multiple of "
            f"{_multiple(metadata)} tokens here."
        )
    yield f"A request waits for {settings.deadline_s:g} s at most, {settings.queue} may wait; the others are refused."


def _shape(spec: TensorSpec) -> str:
    return f"({', '.join(map(str, spec.shape))})"


def _multiple(metadata: Metadata) -> int:
    """Tokens to pad to a multiple of: no text becomes longer than the model reads by it."""
    return gcd(MULTIPLE, metadata.max_length)


_ENCODED = {
    "tokens": "[each.ids for each in batch]",
    "mask": "[each.attention_mask for each in batch]",
    "types": "[each.type_ids for each in batch]",
    "positions": "[list(range(len(each.ids))) for each in batch]",
}
"""What of a tokenizer's encoding an input takes, by its role."""
_ONE_TYPE = "[[0] * len(each.ids) for each in batch]"


def _client(facts: Facts, folder: Path) -> Iterator[str]:
    """Yield the lines of a program that sends texts."""
    metadata = facts.metadata
    encoder = TextEncoder(folder, metadata.max_length, read_model_config(folder).pad_token_id)
    padding = _padding(encoder, _multiple(metadata)) if facts.why_alone is None else None
    step = 1 if padding is None else facts.settings.max_batch
    yield "import sys"
    yield ""
    yield "import numpy as np"
    yield "import tritonclient.http as triton"
    yield "from tokenizers import Tokenizer"
    yield ""
    yield "url, *texts = sys.argv[1:]  # as in: localhost:8000 'a fine film'"
    yield f'tokenizer = Tokenizer.from_file("{facts.name}/{facts.version}/{TOKENIZER_FILE}")'
    yield f'tokenizer.enable_truncation({metadata.max_length}, direction="{encoder.truncation_side}")'
    yield padding or "tokenizer.no_padding()"
    yield "client = triton.InferenceServerClient(url)"
    yield f"for first in range(0, len(texts), {step}):"
    yield f"    batch = tokenizer.encode_batch(texts[first : first + {step}])"
    yield "    inputs = []"
    yield "    for name, rows in {"
    for spec in metadata.inputs:
        rows = _ONE_TYPE if spec.role == "types" and not metadata.type_ids else _ENCODED[spec.role]
        yield f'        "{spec.name}": {rows},'
    yield "    }.items():"
    yield "        array = np.array(rows, np.int64)"
    yield '        inputs.append(triton.InferInput(name, list(array.shape), "INT64"))'
    yield "        inputs[-1].set_data_from_numpy(array)"
    yield f'    result = client.infer("{facts.name}", inputs)'
    yield from (f'    print("{name}", result.as_numpy("{name}").tolist())' for name in TASKS[metadata.task].outputs)


def _padding(encoder: TextEncoder, multiple: int) -> str | None:
    """Return the line that pads; None where the folder names nothing to pad with, so that texts go one by one."""
    try:
        token = encoder.pad_id
    except TokenizerError:
        return None
    return (
        f'tokenizer.enable_padding(direction="{encoder.padding_side}", pad_id={token}, pad_to_multiple_of={multiple})'
    )


def _pooled(metadata: Metadata) -> Iterator[str]:
    """Yield what makes a vector of an embedding model's output."""
    if metadata.pooling is None:
        return
    prompt = metadata.embedding.prompt()
    scaled = ", scaled to length 1" if metadata.normalize else ""
    before = f"; {prompt!r} stands before every text" if prompt else ""
    yield (
        f"A text's vector is the {metadata.pooling} of the vectors of its tokens, those of padding left out"
        f"{scaled}{before}."
    )
