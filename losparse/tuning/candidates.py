"""Forms of a model that may reach a target: timed with random weights, before anyone trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from losparse_export.costs import Call
from losparse_runtime.contract.progress import Progress

from ..building.recipe import BuildRecipe
from ..errors import LosparseError
from ..methods import LoSparse
from .settings import Search

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Group:
    """Forms that differ in what they keep alone: one trace times them all.

    Attributes:
        structure: of the sparse part.
        low_rank: share of the low-rank part.
        blocks: transformer blocks that are kept; None for all.
    """

    structure: str
    low_rank: float
    blocks: int | None

    def method(self, keep: float) -> LoSparse:
        """Return the method of a form."""
        return LoSparse(keep=keep, low_rank=self.low_rank, structure=self.structure)  # type: ignore[arg-type]

    @property
    def words(self) -> str:
        """In words, without what it keeps."""
        rank = f", low rank {self.low_rank:g}" if self.low_rank else ""
        depth = "" if self.blocks is None else f", {self.blocks} blocks"
        return f"{self.structure}{rank}{depth}"


@dataclass(frozen=True)
class Timed:
    """One form in one precision, as it was timed.

    Attributes:
        group: see there.
        keep: share of the layers' parameters.
        precision: of the variant.
        ms: median of a run.
        speedup: over the dense model in fp32, all blocks of it.
        bytes: of its files.
    """

    group: Group
    keep: float
    precision: str
    ms: float
    speedup: float
    bytes: int

    @property
    def words(self) -> str:
        """In words."""
        return f"keep {self.keep:g}, {self.group.words}, {self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def timed_of(data: dict[str, Any]) -> Timed:
    """Return what `Timed.to_dict` wrote."""
    return Timed(**{**data, "group": Group(**data["group"])})


def groups(search: Search, blocks: int) -> Iterator[Group]:
    """Yield what is searched.

    Args:
        search: says it.
        blocks: of the model.
    """
    for depth in search.depths:
        kept = max(1, round(depth * blocks))
        for structure in search.structures:
            for low_rank in search.low_ranks:
                yield Group(structure, low_rank, None if kept == blocks else kept)


def block_count(config: PretrainedConfig) -> int:
    """Return the transformer blocks of a configuration.

    Raises:
        LosparseError: it does not say them.
    """
    found = getattr(config, "num_hidden_layers", None)
    if not isinstance(found, int):
        raise LosparseError("a search needs a model whose configuration says num_hidden_layers, this one does not")
    return found


def time_group(
    group: Group, config: PretrainedConfig, recipe: BuildRecipe, search: Search, call: Call, progress: Progress
) -> list[Timed]:
    """Time all keeps of a group, and the dense model of all blocks beside them.

    Args:
        group: what to time.
        config: of the dense model.
        recipe: whose precisions and layers they have.
        search: whose keeps.
        call: batch, length and threads.
        progress: shows a stage.
    """
    from losparse_export import latency_by_keep
    from losparse_export.target import CPU

    planned = [name for name in recipe.export.precision if name in CPU.plans] or ["fp32"]
    keeps = [keep for keep in search.keeps if group.low_rank < keep]
    if not keeps:
        return []
    smaller = deepcopy(config)
    if group.blocks is not None:
        smaller.num_hidden_layers = group.blocks
    rows = latency_by_keep(
        smaller,
        group.method(max(keeps)),
        keeps,
        call=call,
        precisions=planned,
        targets=recipe.compress.targets,
        ignore=recipe.compress.ignore,
        progress=progress,
    )
    return [
        Timed(group, row["keep"], row["variant"], row["ms"], row["speedup"], row["bytes"])
        for row in rows
        if row["keep"] != 1.0
    ]


def misses(each: Timed, search: Search) -> str | None:
    """Say by how much a form misses the target, or None."""
    if search.target_latency is not None and each.ms > search.target_latency:
        return f"takes {each.ms:.2f} ms, {search.target_latency:g} ms are the target"
    if search.target_speedup is not None and each.speedup < search.target_speedup:
        return f"is {each.speedup:.2f}x as fast as dense fp32, {search.target_speedup:g}x is the target"
    if search.target_bytes is not None and each.bytes > search.target_bytes:
        return f"has {each.bytes / 1e6:.2f} MB, {search.target_bytes / 1e6:.2f} MB is the target"
    return None


def worth_training(timed: Sequence[Timed], search: Search) -> list[Timed]:
    """Return the forms that are trained: of every group the one that keeps most and reaches the target.

    What keeps less of the same form is faster and less accurate, so it is never the better answer. In which precision
    the target is reached does not matter here: a training serves them all. The slower a form is within the target, the
    more it computes, and the earlier it is trained.

    Args:
        timed: all that was timed.
        search: has the target, and how many are trained.
    """
    best: dict[Group, Timed] = {}
    for each in timed:
        if misses(each, search) is None:
            before = best.get(each.group)
            if before is None or (each.keep, -each.ms) > (before.keep, -before.ms):
                best[each.group] = each
    return sorted(best.values(), key=lambda each: (-each.keep, each.ms))[: search.trainings]


def nearest(timed: Sequence[Timed], search: Search) -> Timed:
    """Return the form that misses the target least, by the worst of its shares."""

    def short(each: Timed) -> float:
        parts = [0.0]
        if search.target_latency is not None:
            parts.append(each.ms / search.target_latency)
        if search.target_speedup is not None:
            parts.append(search.target_speedup / each.speedup)
        if search.target_bytes is not None:
            parts.append(each.bytes / search.target_bytes)
        return max(parts)

    return min(timed, key=short)
