"""What is kept of a batch while it is continued: the states of its rows, and how the next run gets them.

    decoder = new_decoder(graph, most=512)
    logits = decoder.start(prompts)          (rows, vocabulary), behind the last token of every prompt
    logits = decoder.step(tokens)            the same, behind one more token a row
    decoder.keep([0, 2])                     rows go, or change their places, or are there twice
    decoder.free()

`SharedDecoder` has one buffer a state, which runs read and extend in place. Its rows have no padding: prompts are run
in groups of one length, each in its own rows of the buffers, and steps tell the rows' lengths by the mask.
`GrowingDecoder` hands what one run made on to the next. There short prompts are padded on the left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contract.feeds import positions_of
from ..contract.tensors import BATCH, PAST, TensorSpec
from ..dependencies import import_onnxruntime
from .graph import Binding, Graph, Ints

Logits = NDArray[np.float32]
Prompts = Sequence[Sequence[int]]

FIRST_ROOM = 256
"""Tokens behind the longest prompt that buffers have room for at first."""
RUN_TOKENS = 512
"""Tokens of prompts in one run over shared buffers: the scores of a run take memory by this times the tokens before."""


class Decoder(Protocol):
    """The states of a batch."""

    def start(self, prompts: Prompts) -> Logits:
        """Run the prompts, of one token at least each; the rows of the batch from then on."""

    def step(self, tokens: Ints) -> Logits:
        """Run one more token of every row; (rows,)."""

    def keep(self, rows: Sequence[int]) -> None:
        """Let row `i` be what row `rows[i]` was; others go, and one may be there more than once."""

    def free(self) -> None:
        """Let go of all states. Nothing else may be called after it."""


def new_decoder(graph: Graph, most: int) -> Decoder:
    """Return an empty decoder.

    Args:
        graph: that it runs.
        most: tokens that a row may get in all, its prompt included.
    """
    return SharedDecoder(graph, most) if graph.shared else GrowingDecoder(graph)


class SharedDecoder:
    """States in buffers that runs extend in place; see the module.

    Args:
        graph: with states that are all updated in place.
        most: tokens that a row may get in all; buffers grow up to it.
        allocate: makes an array of a shape and type, whose contents do not matter.
    """

    def __init__(
        self, graph: Graph, most: int, allocate: Callable[[tuple[int, ...], str], NDArray[Any]] = np.empty
    ) -> None:
        self._graph = graph
        self._most = most
        self._allocate = allocate
        self._value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._binding = Binding(graph)
        self._buffers: list[NDArray[Any]] = []
        self._lengths: Ints = np.zeros(0, np.int64)
        self._capacity = 0

    def start(self, prompts: Prompts) -> Logits:
        """See `Decoder.start`."""
        self._lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        self._reserve(min(self._most, int(self._lengths.max()) + FIRST_ROOM))
        logits = [self._read(rows, prompts) for rows in _groups(prompts)]
        self._bind_all()
        return np.concatenate(logits)

    def _read(self, rows: slice, prompts: Prompts) -> Logits:
        """Run prompts of one length, a long one (which is alone) part by part."""
        self._bind(rows)
        tokens = np.array(prompts[rows], np.int64)
        length = tokens.shape[1]
        for begin in range(0, length, RUN_TOKENS):
            end = min(begin + RUN_TOKENS, length)
            mask = np.ones((len(tokens), end), np.int64)
            logits = self._binding.run(tokens[:, begin:end], mask, positions_of(mask, end - begin))
        return logits

    def step(self, tokens: Ints) -> Logits:
        """See `Decoder.step`."""
        total = int(self._lengths.max()) + 1
        if total > self._capacity:
            self._reserve(min(self._most, 2 * self._capacity))
            self._bind_all()
        mask = (np.arange(total) <= self._lengths[:, None]).astype(np.int64)
        logits = self._binding.run(tokens[:, None], mask, self._lengths[:, None])
        self._lengths += 1
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """See `Decoder.keep`. Only what changes its place is copied."""
        moves = [(to, row) for to, row in enumerate(rows) if to != row]
        for buffer, (spec, _) in zip(self._buffers, self._graph.states, strict=True):
            # All are read before one is written: a row may go to where another one comes from.
            parts = [(to, _tokens_of(spec, buffer[row], int(self._lengths[row])).copy()) for to, row in moves]
            for (to, part), (_, row) in zip(parts, moves, strict=True):
                _tokens_of(spec, buffer[to], int(self._lengths[row]))[...] = part
        self._lengths = self._lengths[list(rows)]
        self._bind_all()

    def free(self) -> None:
        """See `Decoder.free`."""
        self._buffers = []
        self._binding.free()

    def _reserve(self, capacity: int) -> None:
        """Have room for so many tokens a row, and keep those that are there."""
        sizes = {BATCH: len(self._lengths), PAST: capacity}
        grown = [self._allocate(spec.sized(sizes), spec.dtype) for spec, _ in self._graph.states]
        for (spec, _), old, new in zip(self._graph.states, self._buffers, grown, strict=False):
            for row, length in enumerate(self._lengths.tolist()):
                _tokens_of(spec, new[row], length)[...] = _tokens_of(spec, old[row], length)
        self._buffers, self._capacity = grown, capacity

    def _bind_all(self) -> None:
        self._bind(slice(0, len(self._lengths)))

    def _bind(self, rows: slice) -> None:
        """Bind these rows of all buffers: rows lie behind each other, so some of them are a buffer of their own."""
        for buffer, (_, state) in zip(self._buffers, self._graph.states, strict=True):
            self._binding.share(state, self._value(buffer[rows]))


class GrowingDecoder:
    """States that every run makes anew, larger by its tokens; see the module.

    Args:
        graph: with states.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._binding = Binding(graph)
        self._values: list[Any] = []
        self._mask: Ints = np.zeros((0, 0), np.int64)

    def start(self, prompts: Prompts) -> Logits:
        """See `Decoder.start`."""
        longest = max(map(len, prompts))
        filler = self._graph.signature.vocabulary.filler
        tokens = np.array([[filler] * (longest - len(prompt)) + list(prompt) for prompt in prompts], np.int64)
        padding = longest - np.array([len(prompt) for prompt in prompts])
        self._mask = (np.arange(longest) >= padding[:, None]).astype(np.int64)
        empty = self._graph.signature.empty_states(len(prompts))
        self._values = [self._value(empty[state.past], *self._graph.device) for _, state in self._graph.states]
        return self._run(tokens)

    def step(self, tokens: Ints) -> Logits:
        """See `Decoder.step`."""
        self._mask = np.concatenate([self._mask, np.ones((len(tokens), 1), np.int64)], axis=1)
        return self._run(tokens[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        """See `Decoder.keep`. What stays is copied once, as in every run."""
        chosen = list(rows)
        self._mask = self._mask[chosen]
        self._values = [self._value(value.numpy()[chosen], *self._graph.device) for value in self._values]

    def free(self) -> None:
        """See `Decoder.free`."""
        self._values = []
        self._binding.free()

    def _run(self, tokens: Ints) -> Logits:
        for (_, state), value in zip(self._graph.states, self._values, strict=True):
            self._binding.hand_on(state, value)
        self._values = []  # the binding holds them until they are replaced
        logits = self._binding.run(tokens, self._mask, positions_of(self._mask, tokens.shape[1]))
        self._values = self._binding.presents
        return logits


def _groups(prompts: Prompts) -> Iterator[slice]:
    """Yield rows that are run together: neighbours of one length, up to `RUN_TOKENS` tokens."""
    begin = 0
    while begin < len(prompts):
        length, end = len(prompts[begin]), begin + 1
        most = begin + max(1, RUN_TOKENS // length)
        while end < min(most, len(prompts)) and len(prompts[end]) == length:
            end += 1
        yield slice(begin, end)
        begin = end


def _tokens_of(spec: TensorSpec, row: NDArray[Any], length: int) -> NDArray[Any]:
    """Return the part of one row of a state that belongs to its first tokens; a view."""
    return row[tuple(slice(0, length) if axis == PAST else slice(None) for axis in spec.shape[1:])]
