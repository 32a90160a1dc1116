"""Latency against keep, before anyone trains: models of random weights, which keep more and more of their layers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losparse.layers.linear import find_targets
from losparse.methods import LoSparse
from losparse.models.fused import split_fused_
from losparse.random_factors import draw_dense, draw_factors, place_factors_, sizes_of
from losparse_runtime import Session, measure
from losparse_runtime.contract.progress import SILENT, Phases, Progress
from losparse_runtime.contract.task import FEATURE_EXTRACTION

from .costs import Call
from .estimate import Tried, build_variant, random_model
from .opening.config import read_config
from .opening.evaluation import evaluation
from .opening.load import Loaded, refuse_experts
from .opening.wrapping import wrap_model
from .target import CPU, Target, check_target, prepare_model
from .tracing.factors import replace_factors
from .tracing.trace import trace_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def latency_by_keep(
    config: PretrainedConfig | str | Path,
    method: LoSparse,
    keeps: Sequence[float],
    *,
    call: Call | None = None,
    precisions: Sequence[str] = ("fp32", "int8"),
    targets: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    seconds: float = 0.5,
    target: Target = CPU,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Time models that keep different shares of their layers, and the dense one, in turns; one trace serves all.

    Args:
        config: see `estimate_model`.
        method: whose structure and low-rank part they have.
        keeps: shares of the layers' parameters to keep.
        call: batch, length and threads; see `Call`.
        precisions: that the target plans.
        targets: patterns of layers to compress.
        ignore: patterns of layers to leave dense.
        seconds: timed seconds a model.
        target: the kind of machine, which must be this one.
        progress: shows a stage.

    Returns:
        JSON values, a row a model, the dense ones first, whose keep is 1: "keep", as it was asked for, "variant" (the
        precision), "ms", "speedup" over dense fp32, "bytes" of its files, "batch", "length" and "how" ("timed").

    Raises:
        LosparseError: see `estimate_model`.
    """
    check_target(target)
    call, config = call or Call(), read_config(config) if isinstance(config, str | Path) else config
    dense = [Tried(None, precision) for precision in precisions]
    tried = [Tried(_keeping(method, keep), precision) for keep in keeps for precision in precisions]
    with progress.stage("timing other keeps") as advance:
        phases = Phases(advance, "timing other keeps")
        phases.at("tracing", 0, len(tried) + 2)
        model = random_model(config)
        refuse_experts(model, str(getattr(config, "_name_or_path", "") or config.model_type))
        split_fused_(model)
        sizes = sizes_of(find_targets(model, targets, ignore))
        place_factors_(model, draw_factors(sizes, method, config), method)
        loaded = Loaded(model, FEATURE_EXTRACTION, "random weights", None)
        with evaluation(model), tempfile.TemporaryDirectory(prefix="losparse.") as root:
            prepared = prepare_model(trace_model(wrap_model(model, loaded.task)), target)
            sessions, sizes_of_files = {}, list[int]()
            for place, each in enumerate((*dense, *tried)):
                phases.at("building", place + 1, len(tried) + 3)
                folder = Path(root) / str(place)
                folder.mkdir()
                layers = draw_dense(sizes, config) if each.method is None else draw_factors(sizes, each.method, config)
                made = build_variant(folder, loaded, replace_factors(prepared, layers), each, call, target)
                sizes_of_files.append(int(made["bytes"]))
                sessions[str(place)] = Session(
                    folder, providers=(target.provider,), threads=call.threads, unchecked=True
                )
            phases.at("timing", len(tried) + 2, len(tried) + 3)
            times = measure(sessions, batch=call.batch, length=call.length, min_seconds=seconds, memory=False)
    return [
        {
            "keep": 1.0 if each.method is None else each.method.keep,
            "variant": each.precision,
            "ms": latency.median_ms,
            "speedup": latency.speedup,
            "bytes": size,
            "batch": call.batch,
            "length": call.length,
            "how": "timed",
        }
        for each, latency, size in zip((*dense, *tried), times.values(), sizes_of_files, strict=True)
    ]


def _keeping(method: LoSparse, keep: float) -> LoSparse:
    """Return a method that keeps another share; its low-rank part shrinks with it where it would be most of that."""
    from losparse.methods.losparse.shares import largest, scaled

    share = largest(method.rank_share)
    if share <= keep / 2:
        return replace(method, keep=keep, initial_steps=None, final_steps=None)
    return replace(method, keep=keep, low_rank=scaled(method.rank_share, keep / 2))
