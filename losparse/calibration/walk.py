"""Walking through a model block by block, so that later layers see what the compressed blocks before them give.

The model is run once as it is, and what every block is called with is noted (where all blocks of the first batch were
given the very same objects, later batches end in front of the first block). A block can then be run again on other
hidden states, on its own: everything else it takes (masks, positions) does not change. Whether that is really so is
checked on the first batch: a model whose blocks talk to each other some other way is refused.

Held at a time: the hidden states of all tokens (4 bytes each number in fp32), and the statistics of one block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..environment import release_memory
from ..errors import LosparseError
from .layout import Layout
from .observe import Mask, no_batch
from .running import Advance, Batch, backbone, hooked, inference, inputs_of, silent

_HIDDEN = "hidden_states"

_BETWEEN_RELEASES = 8
"""Batches after which freed memory goes back to the system: tensors of other lengths do not fit the holes left."""


@dataclass
class _Call:
    """What one block is called with, its hidden states left out."""

    rest: tuple[Any, ...]
    keywords: dict[str, Any]
    by_keyword: bool

    def same_rest(self, other: _Call) -> bool:
        """Tell whether two blocks are given the very same objects."""
        return (
            self.by_keyword == other.by_keyword
            and len(self.rest) == len(other.rest)
            and all(one is another for one, another in zip(self.rest, other.rest, strict=True))
            and self.keywords.keys() == other.keywords.keys()
            and all(value is other.keywords[key] for key, value in self.keywords.items())
        )


class BlocksError(LosparseError):
    """The blocks of a model cannot be run one by one."""


class _EnoughError(Exception):
    """Ends the run of a block, or of the model, early; never leaves this file."""


class BlockWalk:
    """The hidden states of all calibration tokens in front of one block after another."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        batches: Iterable[Batch],
        advance: Advance = silent,
        *,
        layout: Layout | None = None,
        release: Callable[[], None] = release_memory,
    ):
        """Run the model once, and note what its blocks are called with.

        Args:
            model: to walk through.
            blocks: qualified names, in the order in which they are called.
            batches: of calibration data.
            advance: told after every batch.
            layout: says which part of the model is run; None runs the one below the head.
            release: gives memory that was freed back to the system; called after every few batches.

        Raises:
            LosparseError: no batch, or blocks that cannot be run on their own.
        """
        batches = list(batches)
        if not batches:
            raise no_batch()
        self.model = model
        self.blocks = [model.get_submodule(name) for name in blocks]
        self._part = backbone(model, batches[0]) if layout is None else layout.runs
        self.masks: list[tuple[Tensor | None, Tensor | None]] = []
        self._calls: list[list[_Call]] = [[] for _ in blocks]
        self._first: list[Tensor] = []
        self._check: Tensor | None = None
        self._alike = False
        self._runs = 0
        self._release = release
        self._capture(batches, advance)
        self.restart()
        self._refuse_talkers()

    def restart(self, chosen: Sequence[int] | None = None, *, last: bool = False) -> None:
        """Go back in front of the first block, with all batches or the chosen ones alone.

        Nobody can come back after the `last` time: what is in front of the first block is let go as it is left.
        """
        numbers = range(len(self._first)) if chosen is None else chosen
        self.states = {number: self._first[number] for number in numbers}
        if last:
            self._first.clear()

    def step(self, place: int, advance: Advance = silent, *, mask: Mask | None = None) -> None:
        """Run one block on all tokens, and stand behind it.

        Args:
            place: of the block.
            advance: told after every batch.
            mask: set to that of every batch, for hooks that look at the block's layers meanwhile.
        """
        for number in self.states:
            self.states[number] = self._run(place, number, mask)
            advance(1)

    def look(self, place: int, mask: Mask, *, until: nn.Module) -> None:
        """Run one block up to the call of one of its layers, for what hooks see of it, and stay in front of it."""

        def stop(module: nn.Module, arguments: Any) -> None:
            raise _EnoughError

        # Registered last, so it stops the block when all others have looked.
        with hooked([until.register_forward_pre_hook(stop)]):
            for number in self.states:
                with contextlib.suppress(_EnoughError):
                    self._run(place, number, mask)

    def stages(self, place: int, layers: Mapping[str, nn.Module]) -> list[list[str]]:
        """Sort the layers of a block by when they are called; those that read the same tensor stand together."""
        calls: dict[str, Tensor] = {}

        def note(name: str) -> Any:
            def read(module: nn.Module, arguments: Any) -> None:
                calls.setdefault(name, arguments[0])  # and nothing is returned: torch would take it for the input

            return read

        with hooked(layer.register_forward_pre_hook(note(name)) for name, layer in layers.items()):
            self._run(place, next(iter(self.states)), None)
        stages: list[list[str]] = []
        for name, x in calls.items():
            if stages and calls[stages[-1][0]] is x:
                stages[-1].append(name)
            else:
                stages.append([name])
        uncalled = [name for name in layers if name not in calls]
        return [*stages, uncalled] if uncalled else stages

    def _run(self, place: int, number: int, mask: Mask | None) -> Tensor:
        if mask is not None:
            mask.texts = self.masks[number]
        self._runs += 1
        if self._runs % _BETWEEN_RELEASES == 0:
            self._release()
        with inference(self.model):
            return _call(self.blocks[place], self._calls[place][number], self.states[number])

    def _capture(self, batches: Iterable[Batch], advance: Advance) -> None:
        hooks = (
            block.register_forward_pre_hook(self._noter(place), with_kwargs=True)
            for place, block in enumerate(self.blocks)
        )
        mask = Mask()
        with inference(self.model), hooked(hooks):
            for batch in batches:
                mask.set(batch)
                self.masks.append(mask.texts)
                with contextlib.suppress(_EnoughError):
                    self._part(**inputs_of(batch))
                self._alike = self._alike or self._are_alike()
                advance(1)
        if any(len(calls) != len(self.masks) for calls in self._calls):
            raise self._refusal("a block was not called exactly once per batch")

    def _are_alike(self) -> bool:
        """Tell whether every block was given the very same objects as the first, its hidden states apart."""
        calls = [given[-1] for given in self._calls if given]
        return len(calls) == len(self.blocks) and all(call.same_rest(calls[0]) for call in calls)

    def _noter(self, place: int) -> Any:
        def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            by_keyword = _HIDDEN in keywords
            if not by_keyword and not arguments:
                raise self._refusal(f"they are called without {_HIDDEN}")
            state = keywords[_HIDDEN] if by_keyword else arguments[0]
            if place == 0:
                self._first.append(state)
            if place == 1 and self._check is None:
                self._check = state
            rest = {key: value for key, value in keywords.items() if key != _HIDDEN}
            call = _Call(arguments if by_keyword else arguments[1:], rest, by_keyword)
            if not self._alike:
                self._calls[place].append(call)
                return
            for calls in self._calls:  # no need to run the other blocks to know what they would be given
                calls.append(call)
            raise _EnoughError

        return note

    def _refuse_talkers(self) -> None:
        """Run the first block on its own, and compare with what the second one was given."""
        if self._check is None:
            return
        with inference(self.model):
            again = _call(self.blocks[0], self._calls[0][0], self.states[0])
        # The very same operations on the very same numbers: only threads may add in another order.
        if again.shape != self._check.shape or not torch.allclose(again, self._check, rtol=1e-4, atol=1e-5):
            raise self._refusal("what the second block reads is not what the first one returns")
        self._check = None

    def _refusal(self, why: str) -> BlocksError:
        return BlocksError(
            f"the blocks of {type(self.model).__name__} cannot be run one by one ({why}); calibrate with "
            "sequential=False (--no-sequential)"
        )


def _call(block: nn.Module, call: _Call, state: Tensor) -> Tensor:
    if call.by_keyword:
        output = block(*call.rest, **{**call.keywords, _HIDDEN: state})
    else:
        output = block(state, *call.rest, **call.keywords)
    hidden: Tensor = output[0] if isinstance(output, (tuple, list)) else output  # OpenAI-GPT's are lists
    return hidden
