"""`SentenceEncoder`: vectors of texts, called as `SentenceTransformer` of sentence-transformers is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..contract.embedding import SIMILARITIES, Embedding
from ..contract.task import TASKS
from ..contract.tensors import Arrays
from ..engine.options import Provider
from ..errors import InputError
from ..session import Session
from ..tasks.base import check_count, require
from ..tasks.embed import pooled, token_vectors
from ..text.encoder import text_list
from .arguments import Opening, check_device, refuse, require_arrays
from .bar import progress_bar
from .similarity import similarity, similarity_pairwise, unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SENTENCE, _TOKENS = "sentence_embedding", "token_embeddings"
_PRECISIONS = ("float32", "binary", "ubinary")
_NAME = "SentenceEncoder"


class SentenceEncoder:
    """An exported embedding folder, called as `sentence_transformers.SentenceTransformer` is; no torch.

    Args:
        model_name_or_path: a folder that `losparse export` wrote, or an open `Session`.
        device: "cpu" or "cuda"; where `providers` says by default.
        prompts: what is put in front of a text, by name, in place of the folder's own.
        default_prompt_name: the prompt of texts for which none is asked, in place of the folder's own.
        similarity_fn_name: one of "cosine", "dot", "euclidean", "manhattan", in place of the folder's own.
        truncate_dim: numbers of a vector that are kept, the first ones, in place of the folder's own.
        backend: "onnx", or nothing.
        model_kwargs: `{"file_name": "model_quantized.onnx"}` opens that variant, `{"provider": ...}` on that provider.
        providers: see `Session`.
        threads: see `Session`.
        variant: see `Session`.
        batch_invariant: see `Session`.
        verify: see `Session`.
        others: further arguments of SentenceTransformer, which are refused unless they ask for nothing.

    Attributes:
        session: the open folder.
        prompts: what is put in front of a text, by name.
        default_prompt_name: the prompt of texts for which none is asked; None for none.
        truncate_dim: numbers of a vector that are kept; None for all.

    Raises:
        InputError: the folder is for another task or records no pooling, or an argument cannot be honoured.
        FolderError: see `Session`.
        ProviderError: see `Session`.
    """

    def __init__(
        self,
        model_name_or_path: Path | str | Session,
        *,
        device: object = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        backend: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        variant: str | None = None,
        batch_invariant: bool = False,
        verify: bool | Path | str = False,
        **others: object,
    ) -> None:
        refuse(_NAME, {name: value for name, value in others.items() if name != "local_files_only"})
        opening = Opening(device, backend, model_kwargs, providers, threads, variant, batch_invariant, verify)
        self.session = opening.open(_NAME, model_name_or_path)
        require(self.session, "embed")
        settings = self.session.metadata.embedding
        if self.session.metadata.pooling is None:
            raise InputError(f"{self.session.folder}: records no pooling; use Session.run, or export it again")
        self.prompts = dict(settings.prompts if prompts is None else prompts)
        named = settings.default_prompt_name if default_prompt_name is None else default_prompt_name
        self.default_prompt_name = named
        Embedding(self.prompts, named).prompt()  # refuses a default that is not among them
        self.truncate_dim = settings.truncate_dim if truncate_dim is None else _size(truncate_dim)
        self.similarity_fn_name = similarity_fn_name or settings.similarity or SIMILARITIES[0]
        self._max_length: int | None = None

    def __repr__(self) -> str:
        """The session, and how many numbers a vector has."""
        return f"SentenceEncoder({self.session!r}, features={self.get_embedding_dimension()})"

    def encode(
        self,
        inputs: str | Iterable[str] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = _SENTENCE,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Iterable[str] | None = None,
    ) -> Any:
        """Turn texts into vectors, as `SentenceTransformer.encode` does.

        Args:
            inputs: the texts; a bare string is one text.
            prompt_name: of one of `prompts`; the default one, or none, where it is not given.
            prompt: put in front of every text; it wins over `prompt_name`.
            batch_size: texts in one run, >= 1.
            show_progress_bar: show on stderr how far it is.
            output_value: "sentence_embedding" for a vector a text, "token_embeddings" for one a token.
            precision: "float32"; "binary" or "ubinary" for a bit a number, eight to an int8 or a uint8.
            convert_to_numpy: must be true, as nothing else can be returned.
            convert_to_tensor: must be false.
            device: that of the session, or None.
            normalize_embeddings: scale the vectors to length 1, after they were cut.
            truncate_dim: numbers of a vector that are kept; as the encoder says where it is not given.
            pool: must be None.
            chunk_size: must be None.
            sentences: an older name of `inputs`.

        Returns:
            (texts, features), float32 or bits; (features,) for a bare string; an empty array for no texts. For tokens
            a list of (tokens, hidden), one a text, without padding.

        Raises:
            InputError: an argument is wrong, or cannot be honoured.
            RunError: the model failed, or its outputs are not finite.
        """
        owner = f"{_NAME}.encode"
        refuse(owner, {"pool": pool, "chunk_size": chunk_size})
        plain = convert_to_numpy or output_value != _SENTENCE
        require_arrays(owner, convert_to_numpy=plain, convert_to_tensor=convert_to_tensor)
        check_device(owner, device, self.session)
        _check_choice("output_value", output_value, (_SENTENCE, _TOKENS))
        _check_choice("precision", precision, _PRECISIONS if output_value == _SENTENCE else _PRECISIONS[:1])
        check_count("batch_size", batch_size, 1)
        size = self.truncate_dim if truncate_dim is None else _size(truncate_dim)
        texts, alone = _given(inputs, sentences)
        said = self._prompt(prompt, prompt_name)
        if not texts:
            return np.array([]) if output_value == _SENTENCE else []
        if output_value == _TOKENS:
            made: Any = self._run(token_vectors, texts, batch_size, said, show_progress_bar)
        else:
            vectors = self._run(partial(pooled, size=size), texts, batch_size, said, show_progress_bar)
            made = _as_bits(unit(vectors) if normalize_embeddings else vectors, precision)
        return made[0] if alone else made

    def _run(
        self, make: Callable[..., Result], texts: Sequence[str], batch_size: int, prompt: str, shown: bool | None
    ) -> Result:
        """Make vectors of texts, with a bar if that is asked for."""
        with progress_bar(shown, len(texts)) as advance:
            return make(self.session, texts, batch_size, prompt=prompt, max_length=self._max_length, advance=advance)

    def encode_query(
        self, inputs: str | Iterable[str] | None = None, prompt_name: str | None = None, *args: Any, **options: Any
    ) -> Any:
        """Turn texts that search into vectors: `encode` with the prompt "query", unless another is asked for."""
        return self._encode_as(("query",), inputs, prompt_name, args, options)

    def encode_document(
        self, inputs: str | Iterable[str] | None = None, prompt_name: str | None = None, *args: Any, **options: Any
    ) -> Any:
        """Turn texts that are found into vectors: `encode` with the first prompt of "document", "passage", "corpus"."""
        return self._encode_as(("document", "passage", "corpus"), inputs, prompt_name, args, options)

    def _encode_as(
        self, names: Sequence[str], inputs: Any, asked: str | None, args: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        prompt = args[0] if args else options.get("prompt")
        if asked is None and prompt is None:
            asked = next((name for name in names if name in self.prompts), None)
        return self.encode(inputs, asked, *args, **options)

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[Any]:
        """Compare every vector with every one of another collection; see `drop_in.similarity.similarity`."""
        return similarity(self.similarity_fn_name, embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[Any]:
        """Compare each vector with the one at its place; see `drop_in.similarity.similarity_pairwise`."""
        return similarity_pairwise(self.similarity_fn_name, embeddings1, embeddings2)

    @property
    def similarity_fn_name(self) -> str:
        """How `similarity` compares: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str) -> None:
        _check_choice("similarity_fn_name", name, SIMILARITIES)
        self._similarity = name

    def get_embedding_dimension(self) -> int | None:
        """Return how many numbers a vector has; None where the graph does not say."""
        (output,) = TASKS[self.session.task].outputs
        hidden = next(spec for spec in self.session.outputs if spec.name == output).shape[-1]
        if not isinstance(hidden, int):
            return self.truncate_dim
        assert self.session.metadata.pooling is not None, "the constructor refuses such a folder"
        whole = hidden * len(self.session.metadata.pooling.split("+"))
        return whole if self.truncate_dim is None else min(whole, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int | None:
        """Return the same as `get_embedding_dimension`, by its older name."""
        return self.get_embedding_dimension()

    @property
    def max_seq_length(self) -> int:
        """Tokens that are read of a text, special ones included; may be set lower."""
        return self.session.max_length if self._max_length is None else self._max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= self.session.max_length:
            raise InputError(
                f"max_seq_length must be in 1..{self.session.max_length}, what the folder was exported for, got "
                f"{length!r}; set it in the model's sentence_bert_config.json and export it again"
            )
        self._max_length = length

    def get_max_seq_length(self) -> int:
        """Return `max_seq_length`."""
        return self.max_seq_length

    @property
    def tokenizer(self) -> Tokenizer:
        """The folder's tokenizer, of the package `tokenizers`; it neither pads nor cuts, and must not be changed."""
        return self.session.encoder.tokenizer

    def tokenize(self, texts: str | Iterable[str]) -> Arrays:
        """Return the model's token inputs, as `Session.encode` does."""
        return self.session.encode(texts, max_length=self._max_length)

    @property
    def device(self) -> str:
        """The execution provider that computes."""
        return self.session.providers[0]

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Keep so many numbers of a vector while the block runs; None for all."""
        before = self.truncate_dim
        self.truncate_dim = None if truncate_dim is None else _size(truncate_dim)
        try:
            yield
        finally:
            self.truncate_dim = before

    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> Any:
        """Do the same as `truncate_embeddings`, by its older name."""
        return self.truncate_embeddings(truncate_dim)

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        if prompt is not None and name is not None:
            logger.warning("prompt and prompt_name are both given; prompt_name=%r is left out", name)
            name = None
        return Embedding(self.prompts, self.default_prompt_name).prompt(prompt, name)


def _given(inputs: str | Iterable[str] | None, sentences: str | Iterable[str] | None) -> tuple[list[str], bool]:
    """Return the texts, and whether one was given by itself."""
    if (inputs is None) == (sentences is None):
        raise InputError(f"{_NAME}.encode needs texts: inputs=, or sentences= as it was called, not both")
    texts = sentences if inputs is None else inputs
    if not isinstance(texts, str | Iterable) or isinstance(texts, bytes | Mapping):
        raise InputError(f"inputs must be a string or a list of strings, got {type(texts).__name__}")
    listed = [texts] if isinstance(texts, str) else list(texts)
    return text_list("inputs", listed) if listed else [], isinstance(texts, str)


def _size(value: int) -> int:
    check_count("truncate_dim", value, 1)
    return value


def _check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def _as_bits(vectors: NDArray[Any], precision: str) -> NDArray[Any]:
    """Keep the sign of every number, where that is asked for: 1 for what is above 0."""
    if precision == "float32":
        return vectors
    bits = np.packbits(vectors > 0, axis=-1)
    return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
