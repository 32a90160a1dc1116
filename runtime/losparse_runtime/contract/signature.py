"""What a graph takes, returns and keeps: named inputs, outputs and states, with everything that is asked of them.

    signature.check(feeds)                    the feeds, whole and right, or one line that says what is wrong
    signature.random_feeds(Draw(8, 128))      inputs to compare or to time with
    signature.empty_states(batch=1)           what the first run of a graph with a past is fed
    signature.next_states(outputs)            what the next run is fed
    signature.to_json()                       {"inputs": [...], "outputs": [...]}, as losparse.json holds them

An encoder has one signature; an encoder with a decoder has two, by the names of their graphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import feeds as made_up
from .checks import FeedCheck
from .feeds import Draw
from .fields import Fields
from .tensors import BATCH, PAST, SEQUENCE, TOTAL, Arrays, Role, State, TensorSpec, Vocabulary, parse_tensor


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs and states of one graph.

    Attributes:
        inputs: in the order of the graph, states included.
        outputs: in the order of the graph, states included.
        states: which output of a run is which input of the next.
        vocabulary: the ids that the inputs may hold.
        longest: positions the model has, in tokens; None where nobody says.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    states: tuple[State, ...] = ()
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    longest: int | None = None

    @property
    def pasts(self) -> tuple[TensorSpec, ...]:
        """The inputs that are states."""
        names = {state.past for state in self.states}
        return tuple(spec for spec in self.inputs if spec.name in names)

    @property
    def token_outputs(self) -> tuple[str, ...]:
        """The outputs with one entry a token: those whose first two axes are batch and sequence."""
        return tuple(spec.name for spec in self.outputs if spec.shape[:2] == (BATCH, SEQUENCE))

    def named(self, role: Role) -> str | None:
        """Return the name of the input of a role; None where the graph has none."""
        return next((spec.name for spec in self.inputs if spec.role == role), None)

    def has(self, role: Role) -> bool:
        """Whether an input is of a role."""
        return self.named(role) is not None

    def of(self, feeds: Mapping[str, NDArray[Any]], role: Role) -> NDArray[Any] | None:
        """Return the array of a role; None where the graph has no such input, or it is left out."""
        name = self.named(role)
        return None if name is None else feeds.get(name)

    def tokens_of(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the token ids of feeds; (batch, sequence).

        Raises:
            InputError: there are none.
        """
        name, tokens = self.named("tokens"), self.of(feeds, "tokens")
        if tokens is None:
            raise InputError("the model takes no tokens" if name is None else f"input {name} is missing")
        return tokens

    def mask_of(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the mask of the tokens of feeds, ones where it is left out; (batch, sequence)."""
        mask, shape = self.of(feeds, "mask"), self.tokens_of(feeds).shape
        return np.ones(shape, np.int64) if mask is None else mask[:, -shape[1] :]

    def pick(self, arrays: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the arrays that are inputs of this graph, in its order, without the others."""
        return {spec.name: array for spec, array in self._given(arrays)}

    def check(self, given: Mapping[str, NDArray[Any]]) -> Arrays:
        """Check the inputs of one run and add those that have a default.

        Args:
            given: arrays by input name. Beside the tokens the mask (ones), the types (zeros), the positions (from the
                past on) and all states together (empty) may be left out.

        Returns:
            Arrays for every input, in the order of the graph.

        Raises:
            InputError: a name, type, dtype, rank, size, length or value is wrong; the message says which.
        """
        return self._check(given)

    @cached_property
    def _check(self) -> FeedCheck:
        states = [state.past for state in self.states]
        return FeedCheck(self.inputs, self.vocabulary, states=states, longest=self.longest)

    def random_feeds(self, draw: Draw) -> Arrays:
        """Draw the inputs of one run; see `feeds.random_feeds`."""
        return made_up.random_feeds(self.inputs, self.vocabulary, draw)

    def counted_feeds(self, *, batch: int, length: int, past: int = 0) -> Arrays:
        """Count the tokens of one run, to trace with; see `feeds.counted_feeds`."""
        return made_up.counted_feeds(self.inputs, self.vocabulary, batch=batch, length=length, past=past)

    def empty_states(self, batch: int, **sizes: int) -> Arrays:
        """Return the states before the first run: nothing along the axis of the past, zeros where there is none.

        Args:
            batch: texts.
            sizes: of further free axes by name.
        """
        axes = {BATCH: batch, PAST: 0, **sizes}
        return {spec.name: np.zeros(spec.sized(axes), spec.dtype) for spec in self.pasts}

    def next_states(self, outputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the states that a run left, under the names of the inputs that take them."""
        return {state.past: outputs[state.present] for state in self.states}

    def pad(self, feeds: Mapping[str, NDArray[Any]], length: int, side: str) -> Arrays:
        """Pad every text of feeds to a length.

        Args:
            feeds: of one run, without a past.
            length: tokens a text shall have; at least as many as it has.
            side: where it is filled, "left" or "right".
        """
        return {spec.name: self._padded(spec, array, length, side) for spec, array in self._given(feeds)}

    def _padded(self, spec: TensorSpec, array: NDArray[Any], length: int, side: str) -> NDArray[Any]:
        growing = (SEQUENCE, TOTAL)
        missing = [length - size if axis in growing else 0 for axis, size in zip(spec.shape, array.shape, strict=True)]
        around = [(count, 0) if side == "left" else (0, count) for count in missing]
        return np.pad(array, around, constant_values=self.vocabulary.filler if spec.role == "tokens" else 0)

    def cut(self, feeds: Mapping[str, NDArray[Any]], row: int, tokens: slice) -> Arrays:
        """Return the feeds of one row and some of its tokens."""
        parts: dict[int | str, slice] = {BATCH: slice(row, row + 1), SEQUENCE: tokens}
        return {
            spec.name: np.ascontiguousarray(array[tuple(parts.get(axis, slice(None)) for axis in spec.shape)])
            for spec, array in self._given(feeds)
        }

    def _given(self, feeds: Mapping[str, NDArray[Any]]) -> Iterator[tuple[TensorSpec, NDArray[Any]]]:
        return ((spec, feeds[spec.name]) for spec in self.inputs if spec.name in feeds)

    def free_axes(self) -> dict[str, dict[int, str]]:
        """Return for every input the names of its free axes by their place, as a tracer needs them."""
        return {
            spec.name: {place: axis for place, axis in enumerate(spec.shape) if isinstance(axis, str)}
            for spec in self.inputs
        }

    def within(self, vocabulary: Vocabulary, longest: int | None = None) -> Signature:
        """Return the same with other limits of its values and its length."""
        return replace(self, vocabulary=vocabulary, longest=longest)

    def to_json(self) -> dict[str, Any]:
        """Return inputs, outputs and states as JSON values; limits stand elsewhere in a folder."""
        states = [state.to_dict() for state in self.states]
        return {
            "inputs": [spec.to_dict() for spec in self.inputs],
            "outputs": [spec.to_dict() for spec in self.outputs],
            **({"states": states} if states else {}),
        }


def parse_signature(fields: Fields) -> Signature:
    """Check the fields "inputs", "outputs" and, where there is one, "states".

    Raises:
        FolderError: a field is missing, of the wrong type, or names a tensor that is not there.
    """
    inputs, outputs = _tensors(fields, "inputs"), _tensors(fields, "outputs")
    return Signature(inputs, outputs, _states(fields, inputs, outputs) if "states" in fields.data else ())


def _tensors(fields: Fields, name: str) -> tuple[TensorSpec, ...]:
    specs = tuple(map(parse_tensor, fields.objects(name)))
    if not specs or len({spec.name for spec in specs}) != len(specs):
        fields.fail(name, "a list of at least one tensor, each name once")
    return specs


def _states(fields: Fields, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> tuple[State, ...]:
    """Check that every state is an input and an output of one kind, which only the past tells apart."""
    takes, gives = ({spec.name: spec for spec in specs} for specs in (inputs, outputs))
    states = []
    for each in fields.objects("states"):
        past, present = each.choice("past", tuple(takes)), each.choice("present", tuple(gives))
        if _before(gives[present]) != _before(takes[past]):
            each.fail("present", f"an output of the type and axes of {past!r}")
        states.append(State(past, present, "in_place" in each.data and each.flag("in_place")))
    pasts, presents = {state.past for state in states}, {state.present for state in states}
    if not len(pasts) == len(presents) == len(states):
        fields.fail("states", "a list of states, each input and each output once")
    return tuple(states)


def _before(spec: TensorSpec) -> tuple[str, tuple[int | str, ...]]:
    """Return element type and axes of a state, with the past in the place of the past and this run."""
    return spec.dtype, tuple(PAST if axis == TOTAL else axis for axis in spec.shape)
