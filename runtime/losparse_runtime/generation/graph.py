"""A language model's graph as decoders feed it: by IO binding, so that nothing but tokens and logits is copied."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract.signature import Signature
from ..contract.tensors import LOGITS_FROM, State, TensorSpec
from ..dependencies import import_onnxruntime
from ..engine.running import HOST
from ..errors import RunError, one_line

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Graph:
    """What is the same for all texts.

    Attributes:
        folder: for messages.
        signature: of the graph; it has states.
        use: gives the onnxruntime session for one call.
        logits: the output of logits, (batch, tokens, vocabulary).
        shared: whether one buffer may be past and present of a state: all of them are updated in place, on the CPU.
        device: where states are kept, by onnxruntime's name for it, and which one.
    """

    folder: Path
    signature: Signature
    use: Callable[[], AbstractContextManager[Any]]
    logits: str
    shared: bool
    device: tuple[str, int] = (HOST, 0)

    @property
    def states(self) -> tuple[tuple[TensorSpec, State], ...]:
        """Every state, and the input that takes it."""
        specs = {spec.name: spec for spec in self.signature.inputs}
        return tuple((specs[state.past], state) for state in self.signature.states)


class Binding:
    """Inputs and outputs of the runs of one batch. One thread at a time may use it.

    Args:
        graph: that is run.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # A value made of an array is good for as long as it is held, which bindings of onnxruntime 1.28 do not.
        self._held: dict[str, Any] = {}
        with graph.use() as session:
            self._bound: Any = session.io_binding()
            # Of a prompt too only the last logits matter: a large head over a whole one is most of its time.
            if any(each.name == LOGITS_FROM for each in session.get_overridable_initializers()):
                last = import_onnxruntime().OrtValue.ortvalue_from_numpy(np.array([-1], np.int64))
                self._bind(LOGITS_FROM, last)  # `bind_cpu_input` knows no initialisers
            self._bind_logits()
        inputs = graph.signature
        self._tokens, self._mask = inputs.named("tokens"), inputs.named("mask")
        self._positions = inputs.named("positions")

    def share(self, state: State, value: Any) -> None:
        """Bind one `OrtValue` as past and present of a state, for all runs to come."""
        self._bind(state.past, value)
        self._bound.bind_ortvalue_output(state.present, value)

    def hand_on(self, state: State, value: Any) -> None:
        """Bind an `OrtValue` as the past of a state, and have the next run make its present."""
        self._bind(state.past, value)
        self._bound.bind_output(state.present, *self._graph.device)

    def run(self, tokens: Ints, mask: Ints, positions: Ints) -> NDArray[np.float32]:
        """Run the graph once, and read the logits of the last token of every row.

        Args:
            tokens: ids of this run; (batch, sequence).
            mask: 1 at tokens, earlier ones first, 0 at padding; (batch, past+sequence).
            positions: of this run's tokens; (batch, sequence).

        Returns:
            Logits; (batch, vocabulary).

        Raises:
            RunError: onnxruntime failed, a number of logits is NaN, or the session was closed.
        """
        for name, array in ((self._tokens, tokens), (self._mask, mask), (self._positions, positions)):
            if name is not None:
                self._bound.bind_cpu_input(name, np.ascontiguousarray(array))
        self._bind_logits()
        with self._graph.use() as session:
            try:
                session.run_with_iobinding(self._bound)
            except Exception as error:  # onnxruntime's own errors have no common base below Exception
                raise RunError(
                    f"{self._graph.folder}: onnxruntime failed on {tokens.shape[1]} tokens after "
                    f"{mask.shape[1] - tokens.shape[1]}: {one_line(error)}"
                ) from error
        return self._last_logits()

    def free(self) -> None:
        """Let go of everything that is bound."""
        self._bound = None
        self._held.clear()

    @property
    def presents(self) -> list[Any]:
        """The `OrtValue`s that the last run made, of every state in order."""
        return list(self._bound.get_outputs()[1:])

    def _bind(self, name: str, value: Any) -> None:
        self._held[name] = value
        self._bound.bind_ortvalue_input(name, value)

    def _bind_logits(self) -> None:
        """Bind them before every run, for a new buffer; bound before all other outputs, they are the first one."""
        self._bound.bind_output(self._graph.logits, HOST)

    def _last_logits(self) -> NDArray[np.float32]:
        logits: NDArray[Any] = self._bound.get_outputs_as_ortvaluevector()[0].numpy()
        last = logits[:, -1].astype(np.float32, copy=False)
        if np.isnan(last.max()):  # a NaN has no largest token; -inf is one that never comes
            raise RunError(
                f"{self._graph.folder}: output {self._graph.logits!r} has NaN; compare the folder with its source: "
                "`losparse check`"
            )
        return last
