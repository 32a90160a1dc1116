"""`CrossEncoder`: scores of pairs of texts, called as `CrossEncoder` of sentence-transformers is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.task import TASKS
from ..engine.options import Provider
from ..errors import InputError
from ..session import Session
from ..tasks.base import batches, check_count, class_names, require
from ..tasks.scoring import ACTIVATIONS, softmax
from ..text.encoder import text_list
from .arguments import Opening, check_device, refuse, require_arrays
from .bar import progress_bar

Activation = Callable[[NDArray[Any]], NDArray[Any]]
_NAME = "CrossEncoder"


class CrossEncoder:
    """An exported classifier of pairs, called as `sentence_transformers.CrossEncoder` is; no torch.

    Args:
        model_name_or_path: a folder that `losparse export` wrote, or an open `Session`.
        num_labels: must be what the folder has.
        max_length: tokens that are read of a pair; all that the folder was exported for by default.
        activation_fn: what makes a score of an output: "Identity", "Sigmoid", "Tanh", or a function of an array. By
            default what config.json says, else "Sigmoid" for one output and "Identity" for several.
        device: "cpu" or "cuda"; where `providers` says by default.
        backend: "onnx", or nothing.
        model_kwargs: `{"file_name": "model_quantized.onnx"}` opens that variant, `{"provider": ...}` on that provider.
        providers: see `Session`.
        threads: see `Session`.
        variant: see `Session`.
        batch_invariant: see `Session`.
        verify: see `Session`.
        others: further arguments of CrossEncoder, which are refused unless they ask for nothing.

    Attributes:
        session: the open folder.
        activation_fn: what makes a score of an output.
        max_seq_length: tokens that are read of a pair.

    Raises:
        InputError: the folder is for another task, or an argument cannot be honoured.
        FolderError: see `Session`.
        ProviderError: see `Session`.
    """

    def __init__(
        self,
        model_name_or_path: Path | str | Session,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: object = None,
        device: object = None,
        *,
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
        require(self.session, "rank", does=TASKS[self.session.task].scores_texts)
        if num_labels is not None and num_labels != self.num_labels:
            raise InputError(f"num_labels must be {self.num_labels}, as {self.session.folder} has, got {num_labels!r}")
        self.activation_fn: Activation = self._default() if activation_fn is None else _activation(activation_fn)
        self.max_seq_length = self.session.max_length if max_length is None else max_length

    @property
    def num_labels(self) -> int:
        """Outputs of a pair."""
        return len(class_names(self.session))

    def predict(
        self,
        inputs: Sequence[Any] | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: object = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
        *,
        sentences: Sequence[Any] | None = None,
    ) -> Any:
        """Score pairs of texts, as `CrossEncoder.predict` does.

        Args:
            inputs: the pairs, of two texts each; one pair is one.
            prompt_name: must be None.
            prompt: must be None.
            batch_size: pairs in one run, >= 1.
            show_progress_bar: show on stderr how far it is.
            activation_fn: in place of the encoder's.
            apply_softmax: make the scores of a pair sum to 1, where there are several.
            convert_to_numpy: must be true, as nothing else can be returned.
            convert_to_tensor: must be false.
            device: that of the session, or None.
            pool: must be None.
            chunk_size: must be None.
            sentences: an older name of `inputs`.

        Returns:
            float32 (pairs,) for one output, (pairs, outputs) for several; without the first axis for one pair; an
            empty array for none.

        Raises:
            InputError: an argument is wrong, or cannot be honoured.
            RunError: the model failed, or its outputs are not finite.
        """
        owner = f"{_NAME}.predict"
        refuse(owner, {"prompt_name": prompt_name, "prompt": prompt or None, "pool": pool, "chunk_size": chunk_size})
        require_arrays(owner, convert_to_numpy=convert_to_numpy, convert_to_tensor=convert_to_tensor)
        check_device(owner, device, self.session)
        check_count("batch_size", batch_size, 1)
        pairs, alone = _pairs(inputs, sentences)
        function = self.activation_fn if activation_fn is None else _activation(activation_fn)
        if not pairs:
            return np.array([])
        made = function(self._outputs(pairs, batch_size, show_progress_bar))
        if made.ndim == 2 and made.shape[1] == 1:
            made = made[:, 0]
        if apply_softmax and made.ndim == 2:
            made = softmax(made)
        scores = made.astype(np.float32)
        return scores[0] if alone else scores

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: object = None,
        device: object = None,
        pool: object = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Sort texts by how well each goes with a query, as `CrossEncoder.rank` does.

        Args:
            query: what is looked for.
            documents: what is sorted.
            top_k: how many are returned, the best; None for all.
            return_documents: give the text too.
            prompt_name: see `predict`, as for all further arguments.
            prompt: see `predict`.
            batch_size: see `predict`.
            show_progress_bar: see `predict`.
            activation_fn: see `predict`.
            device: see `predict`.
            pool: see `predict`.
            chunk_size: see `predict`.

        Returns:
            "corpus_id" (place among the documents), "score" and perhaps "text" of each, the best first; of equal ones
            the first given.

        Raises:
            InputError: the folder has not one output a pair, or an argument is wrong or cannot be honoured.
            RunError: the model failed, or its outputs are not finite.
        """
        if self.num_labels != 1:
            raise InputError(f"rank needs a model of one output, {self.session.folder} has {self.num_labels}")
        if not isinstance(query, str):
            raise InputError(f"query must be a string, got {type(query).__name__}")
        if top_k is not None:
            check_count("top_k", top_k, 1)
        listed = list(documents)
        scores = self.predict(
            [(query, text) for text in (text_list("documents", listed) if listed else [])],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        )
        found = [
            {"corpus_id": place, "score": score, **({"text": listed[place]} if return_documents else {})}
            for place, score in enumerate(scores.tolist())
        ]
        return sorted(found, key=lambda each: -each["score"])[:top_k]

    def _outputs(self, pairs: Sequence[tuple[str, str]], batch_size: int, shown: bool | None) -> NDArray[Any]:
        """Return the raw outputs of pairs, float64 (pairs, outputs)."""
        (name,) = TASKS[self.session.task].outputs
        firsts, seconds = zip(*pairs, strict=True)
        encodings = self.session.encoder.encodings(firsts, seconds, self.max_seq_length)
        found: dict[int, NDArray[Any]] = {}
        with progress_bar(shown, len(pairs)) as advance:
            for rows, outputs, _ in batches(self.session, encodings, batch_size):
                found.update(zip(rows, outputs[name].astype(np.float64), strict=True))
                advance(len(rows))
        return np.stack([found[index] for index in range(len(pairs))])

    def _default(self) -> Activation:
        said = self.session.config.activation
        return _activation(said or ("Sigmoid" if self.num_labels == 1 else "Identity"))


def _activation(value: object) -> Activation:
    """Return a function by its name, by the class of torch.nn that has its name, or as it is."""
    name = value.rpartition(".")[2] if isinstance(value, str) else type(value).__name__
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if isinstance(value, str) or not callable(value):
        raise InputError(f"activation_fn must be one of {', '.join(ACTIVATIONS)}, or a function, got {value!r}")
    function: Activation = value
    return function


def _pairs(inputs: Sequence[Any] | None, sentences: Sequence[Any] | None) -> tuple[list[tuple[str, str]], bool]:
    """Return the pairs, and whether one was given by itself."""
    if (inputs is None) == (sentences is None):
        raise InputError(f"{_NAME}.predict needs pairs: inputs=, or sentences= as it was called, not both")
    given = inputs if sentences is None else sentences
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"inputs must be pairs of texts, got {type(given).__name__}")
    listed = given.tolist() if isinstance(given, np.ndarray) else list(given)
    alone = bool(listed) and isinstance(listed[0], str)
    pairs = [listed] if alone else listed
    for place, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputError(f"inputs must be pairs of two texts, got {str(pair)[:60]!r} at {place}")
    return [(first, second) for first, second in pairs], alone
