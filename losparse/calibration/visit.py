"""The order in which layers are compressed, and what is known of each when its turn comes.

A visit yields groups of layers with their statistics; whoever visits may replace the layers of a group before he asks
for the next one. In a sequential visit later groups then see the outputs of compressed layers, as LLM-ROM does; in
any other they see those of the dense model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from losparse_runtime.contract.progress import Phases

from ..errors import LosparseError
from ..layers.blocks import layers_by_block, stack_of
from .layout import Layout, layout_of
from .observe import Mask, checked, no_batch, observe, whole_pass
from .running import Advance, Batch
from .statistics import LayerStatistics, Statistic
from .walk import BlocksError, BlockWalk

RUNNING = "running the model"
"""The phase in which batches go through a model, or up to its blocks."""


class Visit(Protocol):
    """Visits every layer once."""

    def __call__(
        self, *, sequential: bool, chosen: Sequence[int] | None = None, last: bool = False
    ) -> Iterator[dict[str, LayerStatistics]]:
        """Yield groups of layers, with the statistics of each, on all batches or the chosen ones, by number.

        `last` promises that no visit follows, so that nothing has to be held for one.
        """


def visitor(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    statistics: Collection[Statistic],
    *,
    sequential: bool | None,
    phases: Phases | None = None,
) -> tuple[Visit, bool]:
    """Choose how a model is visited: block by block where it can be, since that holds the least.

    Args:
        model: to visit.
        layers: by qualified name.
        batches: of calibration data.
        statistics: to collect.
        sequential: what is asked for; None where the model allows it.
        phases: told how many batches are done, by what is done with them.

    Returns:
        The visit, and whether it can be sequential and shall be.

    Raises:
        LosparseError: the visit is to be sequential, and the layers are in no single stack of blocks, or the blocks
            cannot be run one by one.
    """
    if not set(statistics) & {"gram", "square"}:
        return _Blind(layers), False
    blocks = stack_of(model, layers)
    if not blocks and sequential:
        raise LosparseError(
            f"the layers of {type(model).__name__} are not in one stack of blocks, so they cannot be compressed "
            "one after another; set sequential=False (--no-sequential)"
        )
    if not batches:
        raise no_batch()
    look = _Look("gram" in statistics, layout_of(model, layers, batches[0]), phases or Phases())
    if blocks:
        try:
            return _ByBlock(model, layers, batches, blocks, look), sequential is not False
        except BlocksError:
            if sequential:
                raise
    return _AtOnce(model, layers, batches, look), False


@dataclass(frozen=True)
class _Look:
    """What is looked at: the Gram matrix or not; how layers hold tokens; and who is told."""

    gram: bool
    layout: Layout
    phases: Phases


class _Blind:
    """Nothing is known of the inputs, and nothing needs to be."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.layers = layers

    def __call__(
        self, *, sequential: bool, chosen: Sequence[int] | None = None, last: bool = False
    ) -> Iterator[dict[str, LayerStatistics]]:
        yield {name: LayerStatistics() for name in self.layers}


class _AtOnce:
    """One pass over the whole model; all statistics are held together."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Sequence[Batch],
        look: _Look,
    ) -> None:
        self.model, self.layers, self.batches, self.see = model, layers, batches, look

    def __call__(
        self, *, sequential: bool, chosen: Sequence[int] | None = None, last: bool = False
    ) -> Iterator[dict[str, LayerStatistics]]:
        if self.layers:
            batches = self.batches if chosen is None else [self.batches[number] for number in chosen]
            advance: Advance = lambda done: self.see.phases.more(RUNNING, done, len(batches))  # noqa: E731
            yield whole_pass(
                self.model, self.layers, batches, gram=self.see.gram, layout=self.see.layout, advance=advance
            )


class _ByBlock:
    """One block after another; layers outside the blocks come last."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        batches: Sequence[Batch],
        blocks: Sequence[str],
        look: _Look,
    ) -> None:
        self.see = look
        tell: Advance = lambda done: look.phases.more(RUNNING, done, len(batches))  # noqa: E731
        self.walk = BlockWalk(model, blocks, batches, tell, layout=look.layout)
        self.groups = layers_by_block(model, layers, blocks)
        inside = {name for group in self.groups for name in group}
        outside = {name: layer for name, layer in layers.items() if name not in inside}
        self.rest = _AtOnce(model, outside, batches, look)

    def __call__(
        self, *, sequential: bool, chosen: Sequence[int] | None = None, last: bool = False
    ) -> Iterator[dict[str, LayerStatistics]]:
        self.walk.restart(chosen, last=last)
        title = "compressing block by block" if sequential else "measuring block by block"
        total = len(self.walk.states) * len(self.groups)
        for place, layers in enumerate(self.groups):
            tell: Advance = lambda done: self.see.phases.more(title, done, total)  # noqa: E731
            if layers and not sequential:
                mask = Mask(self.see.layout)
                with observe(layers, mask, gram=self.see.gram) as moments:
                    self.walk.step(place, tell, mask=mask)
                found = checked(layers, moments)
                del moments
                yield found
                del found
                continue
            if layers:
                for names in self.walk.stages(place, layers):
                    yield self._moments(place, {name: layers[name] for name in names})
            if any(self.groups[place + 1 :]):
                self.walk.step(place, tell)
            else:  # nobody asks what comes behind
                tell(len(self.walk.states))
        yield from self.rest(sequential=sequential, chosen=chosen)

    def _moments(self, place: int, layers: Mapping[str, nn.Module]) -> dict[str, LayerStatistics]:
        mask = Mask(self.see.layout)
        with observe(layers, mask, gram=self.see.gram) as moments:
            self.walk.look(place, mask, until=list(layers.values())[-1])
        return checked(layers, moments)
