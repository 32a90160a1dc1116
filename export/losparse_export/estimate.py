"""What compression would bring, before anyone trains: size and measured latency, from a configuration alone.

A model of random weights is built from the configuration, compressed to random factors of the planned shapes, traced
once, and exported in every variant: dense and factored, fp32 and int8, and the factored one with other splits of the
budget. All are timed in turns in one run on this machine. Latency does not depend on the weights' values; accuracy
does, and nothing is said about it.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from losparse.errors import LosparseError
from losparse.layers.linear import find_targets
from losparse.layers.spec import LayerSpec
from losparse.methods import LoSparse, StructuredPruning
from losparse.methods.losparse.shares import in_words as low_rank_words
from losparse.methods.losparse.shares import largest as largest_share
from losparse.methods.losparse.shares import scaled
from losparse.models.coverage import Coverage
from losparse.models.fused import split_fused_
from losparse.random_factors import draw_dense, draw_factors, place_factors_, sizes_of
from losparse_runtime import Latency, NodeTime, Session, measure, profile_nodes, time_by
from losparse_runtime.contract.progress import SILENT, Phases, Progress
from losparse_runtime.contract.task import FEATURE_EXTRACTION

from .build import build_graph, check_choice, check_past, dense_plan
from .costs import Call
from .folder.model import model_sizes
from .folder.write import write_folder
from .graph.naming import module_of_path, unmarked
from .opening.config import read_config
from .opening.evaluation import evaluation
from .opening.kinds import check_reads_text, class_of, opening_class
from .opening.load import Loaded, refuse_experts
from .opening.wrapping import wrap_model
from .opponents import Opponent, dense_opponents
from .precision.apply import apply_precision
from .target import CPU, PLAIN, Target, check_target, prepare_model
from .tracing.factors import replace_factors
from .tracing.trace import trace_model
from .verdict import Row, verdict

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)

# Shares of the budget for the rank part that are tried beside the one asked for.
_GRID = (0.0, 0.1, 0.25, 0.5)


@dataclass(frozen=True)
class Estimate:
    """What `estimate_model` found.

    Attributes:
        rows: dense variants first, and what others make of the dense model last.
        kinds: milliseconds of one run by kind of layer, for dense fp32 and for the factored model that was asked for.
        call: what was timed.
        verdict: plain sentences: what it brings, or that it is not worth it.
        worth: whether the best factored variant is clearly faster than the best dense one: of ours in the precisions
            that were measured for both, and of other runtimes.
        looked_at: how much of the model's linear weights the compressed layers are.
    """

    rows: tuple[Row, ...]
    kinds: Mapping[str, Mapping[str, float]]
    call: Call
    verdict: str
    worth: bool
    looked_at: Coverage | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return {**asdict(self), "looked_at": None if self.looked_at is None else self.looked_at.to_dict()}


@dataclass(frozen=True)
class Tried:
    """A setting to build.

    Attributes:
        method: None for dense.
        precision: one that the target plans.
        asked: whether it is what was asked for.
    """

    method: LoSparse | None
    precision: str
    asked: bool = False

    @property
    def name(self) -> str:
        """Of the setting, in words."""
        form = "dense" if self.method is None else f"factored {low_rank_words(self.method.rank_share)}"
        return f"{form} {self.precision}"


def estimate_model(
    config: PretrainedConfig | str | Path,
    method: LoSparse,
    *,
    call: Call | None = None,
    precisions: Sequence[str] | None = None,
    grid: bool = True,
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    seconds: float = 2.0,
    target: Target = CPU,
    opponents: bool = True,
    progress: Progress = SILENT,
) -> Estimate:
    """Measure a model that does not exist yet.

    Args:
        config: of a transformers model; or its folder or hub id, of which nothing else is read.
        method: budget and structure to try.
        call: batch, length and threads to time.
        precisions: of the factored variants; None for all that the target plans, in which dense ones are always timed.
        grid: also try other splits of the budget between rank part and sparse part.
        targets: patterns of layers to compress.
        ignore: patterns of layers to leave dense.
        seconds: timed seconds a variant.
        target: the kind of machine, which must be this one.
        opponents: also time the dense model as others make it: onnxruntime by its defaults, and OpenVINO in f32, bf16
            and int8 where `find_openvino` finds one.
        progress: shows a stage.

    Returns:
        Sizes, times and a verdict.

    Raises:
        LosparseError: an argument is refused, a precision cannot be estimated, a model cannot be built, or there is no
            layer to take.
    """
    check_target(target)
    check_choice(None, call, tune=True)  # every variant is timed, so threads matter
    check_past(call, FEATURE_EXTRACTION)
    precisions = target.plans if precisions is None else precisions
    unknown = sorted(set(precisions) - set(target.plans))
    if unknown:
        raise LosparseError(f"precision must be one of {', '.join(target.plans)} for an estimate, got {unknown[0]!r}")
    config = read_config(config) if isinstance(config, str | Path) else config
    call = call or Call()
    variants = _variants(method, precisions, target.plans, grid=grid)
    steps = len(variants) + 2
    with progress.stage("estimating") as advance:
        phases = Phases(advance, "estimating")
        phases.at("tracing", 0, steps)
        model = random_model(config)
        refuse_experts(model, str(getattr(config, "_name_or_path", "") or config.model_type))
        split_fused_(model)
        sizes = sizes_of(find_targets(model, targets, ignore))
        looked_at = place_factors_(model, draw_factors(sizes, method, config), method).coverage
        loaded = Loaded(model, FEATURE_EXTRACTION, "random weights", None)
        with evaluation(model), tempfile.TemporaryDirectory(prefix="losparse.") as name:
            trace = trace_model(wrap_model(model, loaded.task))
            dense = draw_dense(sizes, config)
            plain = _plain(replace_factors(trace, dense)) if opponents else None
            prepared = prepare_model(trace, target)
            built = {}
            for done, variant in enumerate(variants):
                phases.at(f"building {variant.name}", done + 1, steps)
                folder = Path(name) / str(done)
                folder.mkdir()
                layers = dense if variant.method is None else draw_factors(sizes, variant.method, config)
                built[variant] = build_variant(folder, loaded, replace_factors(prepared, layers), variant, call, target)
                built[variant]["layers"] = sum(layer.parameter_count() for layer in layers.values())
            phases.at("timing", steps - 1, steps)
            folders = {variant: Path(name) / str(place) for place, variant in enumerate(built)}
            timed = _Timed(folders, built, sizes, call, seconds, target)
            with _opponents(plain, loaded, Path(name), folders, call) as found:
                return replace(timed.estimate(found), looked_at=looked_at)


def _variants(method: LoSparse, precisions: Sequence[str], planned: Sequence[str], *, grid: bool) -> list[Tried]:
    dense = [Tried(None, precision) for precision in planned]
    asked = [Tried(method, precision, asked=True) for precision in precisions]
    asked_for = largest_share(method.rank_share)
    shares = [share * method.keep for share in _GRID] if grid else []
    tried = [_split(method, share) for share in shares if abs(share - asked_for) > 1e-3]
    return [*dense, *asked, *(Tried(other, precisions[-1]) for other in tried)]


def _split(method: LoSparse, share: float) -> LoSparse:
    """Return the method with another share for the rank part, the largest of them where kinds of layers have theirs."""
    if not share:
        return StructuredPruning(keep=method.keep, structure=method.structure, multiple=method.multiple)
    low_rank = scaled(method.rank_share, share)
    return LoSparse(keep=method.keep, low_rank=low_rank, structure=method.structure, multiple=method.multiple)


def random_model(config: PretrainedConfig) -> Any:
    """Return a model of a configuration, with random weights.

    Raises:
        LosparseError: none can be built, or it reads no text.
    """
    import torch
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    named, settings = MODEL_MAPPING_NAMES.get(config.model_type), config.to_dict()
    check_reads_text(class_of(named if isinstance(named, str) else None), settings, f"model type {config.model_type!r}")
    kind = opening_class(FEATURE_EXTRACTION, None, settings)
    build = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    torch.manual_seed(0)
    try:
        return build(deepcopy(config)).eval()  # the compressed model writes into its configuration
    except (ValueError, KeyError, TypeError) as error:
        raise LosparseError(f"no model can be built from the configuration: {str(error).splitlines()[0]}") from error


def build_variant(
    folder: Path,
    loaded: Loaded,
    graph: ir.Model,
    variant: Tried,
    call: Call,
    target: Target,
) -> dict[str, Any]:
    """Write one variant's folder, an empty one; returns its counts."""
    built = build_graph(graph, precision=variant.precision, calls=Call(call.batch, call.length), target=target)
    if variant.method is None:
        merged = dense_plan(built.plan, "the dense variant", "the dense variant was asked for")
        built = build_graph(graph, precision=variant.precision, plan=merged, target=target)
    final = apply_precision(built.graph, variant.precision, nodes=built.quantise) if built.quantise else built.graph
    contents = write_folder(folder, loaded, final, built.plan, target=target, precision=variant.precision)
    return {"bytes": sum(model_sizes(contents).values())}


def _plain(trace: ir.Model) -> ir.Model:
    """Return the dense model as torch writes it, of its trace."""
    prepared = prepare_model(trace, PLAIN)
    merged = dense_plan(build_graph(prepared, target=PLAIN).plan, "the dense variant", "the dense variant is wanted")
    return build_graph(prepared, plan=merged, target=PLAIN).graph


@contextmanager
def _opponents(
    plain: ir.Model | None, loaded: Loaded, root: Path, folders: Mapping[Tried, Path], call: Call
) -> Iterator[list[Opponent]]:
    """Open what others make of the dense model, none where it is not wanted; say what was left out and why."""
    if plain is None:
        yield []
        return
    dense = Session(folders[next(iter(folders))], threads=call.threads, unchecked=True)
    with dense_opponents(loaded, plain, root, dense, call) as (found, left_out):
        for sentence in left_out:
            logger.warning("not timed: %s", sentence)
        yield found


@dataclass(frozen=True)
class _Timed:
    """Variants in their folders, to be timed."""

    folders: Mapping[Tried, Path]
    built: Mapping[Tried, Mapping[str, Any]]
    sizes: Mapping[str, LayerSpec]
    call: Call
    seconds: float
    target: Target

    def estimate(self, opponents: Sequence[Opponent]) -> Estimate:
        """Time all in turns."""
        call, sessions = self.call, self._sessions()
        others = {f"{other.runtime} {other.precision}": other for other in opponents}
        models = {**sessions, **{name: other.model for name, other in others.items()}}
        times = measure(models, batch=call.batch, length=call.length, min_seconds=self.seconds, memory=False)
        first = next(iter(sessions.values()))
        whole = first.metadata.parameters["model"] - self._stored + self._dense
        rows = [self._row(variant, times[variant.name], whole) for variant in self.built]
        for name, other in others.items():
            like = replace(rows[0], precision=other.precision, runtime=other.runtime, file_bytes=other.file_bytes)
            rows.append(replace(like, **_figures(times[name])))
        asked = next(variant for variant in self.built if variant.asked)
        kinds = _kinds(first, sessions[asked.name], list(self.sizes), call)
        worth, text = verdict(rows, call)
        return Estimate(tuple(rows), kinds, call, text, worth)

    def _sessions(self) -> dict[str, Session]:
        providers, threads = (self.target.provider,), self.call.threads
        return {
            variant.name: Session(folder, providers=providers, threads=threads, unchecked=True)
            for variant, folder in self.folders.items()
        }

    @property
    def _dense(self) -> int:
        return sum(size.out_features * size.in_features for size in self.sizes.values())

    @property
    def _stored(self) -> int:
        return int(next(counts["layers"] for variant, counts in self.built.items() if variant.asked))

    def _row(self, variant: Tried, latency: Latency, whole: int) -> Row:
        counts = self.built[variant]
        return Row(
            form="dense" if variant.method is None else "factored",
            precision=variant.precision,
            keep=counts["layers"] / self._dense,
            low_rank=0.0 if variant.method is None else variant.method.rank_share,
            layer_parameters=counts["layers"],
            model_parameters=whole - self._dense + counts["layers"],
            file_bytes=counts["bytes"],
            asked=variant.asked,
            **_figures(latency),
        )


def _figures(latency: Latency) -> dict[str, Any]:
    """Return the times of a row."""
    names = ("median_ms", "min_ms", "speedup", "speedup_low", "speedup_high", "noisy")
    return {name: getattr(latency, name) for name in names}


def _kinds(dense: Session, factored: Session, names: Sequence[str], call: Call) -> dict[str, dict[str, float]]:
    """Add up one run's time by kind of layer: its name with * for its block.

    Layers of one parent (query, key and value) are one kind: they share products, which belong to none of them alone.
    """
    parents = Counter(name.rpartition(".")[0] for name in names)

    def kind(node: NodeTime) -> str:
        layer = unmarked(module_of_path(node.name))[0]
        if layer not in names:
            return "everything else"
        parent = layer.rpartition(".")[0]
        shown = f"{parent}.*" if parents[parent] > 1 else layer
        return ".".join("*" if part.isdigit() else part for part in shown.split("."))

    kinds: dict[str, dict[str, float]] = {}
    for label, session in (("dense", dense), ("factored", factored)):
        nodes = profile_nodes(session.folder, session.options, batch=call.batch, length=call.length)
        for name, ms in time_by(nodes, kind).items():
            kinds.setdefault(name, {})[label] = ms
    return kinds
