"""A machine to export for: what things cost there, which forms and passes it takes, and how onnxruntime runs on it.

A new target is one more value of this kind in `TARGETS`; nothing else names a provider, a cost or an order of passes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from losparse.errors import LosparseError, shown
from losparse_runtime.engine.cpus import CPU_CLASSES, CPU_VARIABLE

from .costs import Calls, Costs, Counts, Traffic
from .graph.opsets import NEWEST
from .lowerings import LOWERINGS, Lowering
from .machines import DEFAULT_KIND, KINDS
from .passes import FINISH, LAST, PREPARE, Finishing, NamePass, PassMaker, ReadPartsPass, quantised_nodes


@dataclass(frozen=True)
class Target:
    """One kind of machine.

    Attributes:
        name: as in "cpu"; plans say it.
        provider: onnxruntime's full name of the execution provider.
        costs: what things take there.
        disabled_optimizers: onnxruntime's graph optimizers that cost time there.
        plans: precisions that a plan decides layer by layer; others are made of a finished fp32 graph.
        lowerings: forms of a layer, in order of preference: of two of equal cost the earlier one is taken.
        prepare: passes in front of the lowering, in their order.
        finish: passes behind it.
    """

    name: str
    provider: str
    costs: Costs
    disabled_optimizers: tuple[str, ...] = ()
    plans: tuple[str, ...] = ("fp32", "int8")
    lowerings: tuple[Lowering, ...] = LOWERINGS
    prepare: tuple[PassMaker, ...] = PREPARE
    finish: tuple[PassMaker, ...] = FINISH

    def price(self, counts: Counts, calls: Calls | Traffic, precision: str = "fp32") -> float:
        """Return what is counted takes per token, on the average over all tokens of the calls; see `Costs.price`."""
        return Traffic.of(calls).per_token(lambda call: self.costs.price(counts, call, precision))

    def lowering(self, name: str) -> Lowering:
        """Find a form by its name.

        Raises:
            LosparseError: there is none of that name.
        """
        for lowering in self.lowerings:
            if name == lowering.NAME:
                return lowering
        names = ", ".join(lowering.NAME for lowering in self.lowerings)
        raise LosparseError(f"plan: lowering must be one of {names}, got {name!r}")


# Fusions of onnxruntime 1.31 that cost time on the CPU provider: as one node, normalisation and sum take several times
# as long. Without them a plain 12 x 768 export is 4-5 % faster in fp32 and 7-8 % in int8 (1 x 16 and 1 x 128, one
# thread, AVX2); our own graphs leave them little to fuse.
_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "BiasGeluFusion")


def _cpu(name: str, costs: Costs) -> Target:
    return Target(name, "CPUExecutionProvider", costs, _SLOW_ON_CPU)


def this_machine(chosen: str | None) -> Target:
    """Return what "cpu" means: `machines.DEFAULT_KIND`, or the kind that is chosen in its place.

    Args:
        chosen: a class of CPU, as `CPU_VARIABLE` names it; None or "", or one that nobody measured, for the default.

    Raises:
        LosparseError: there is no class of the name.
    """
    kind = chosen or DEFAULT_KIND
    if kind not in CPU_CLASSES:
        raise LosparseError(f"${CPU_VARIABLE} must be one of {', '.join(CPU_CLASSES)}, or not set, got {kind!r}")
    return _cpu("cpu", KINDS.get(kind, KINDS[DEFAULT_KIND]))


CPU = this_machine(os.environ.get(CPU_VARIABLE))
"""The machine at hand. Plans for it say "cpu": on another machine they can be carried out as well."""

# What torch.onnx.export writes, as onnxruntime runs it: an opponent of ours, and what other runtimes like best: in int8
# OpenVINO runs it about 1.2 times as fast as our export of the same dense model (6 x 384 at 128 tokens, AMX).
PLAIN = Target(
    "plain",
    "CPUExecutionProvider",
    CPU.costs,
    # Products that the model keeps for several layers may have been taken apart: then they are read apart, too.
    prepare=(lambda _: ReadPartsPass(), lambda _: common.RemoveUnusedNodesPass()),
    finish=(lambda _: NamePass(),),
)

TARGETS = {target.name: target for target in (CPU, *(_cpu(name, costs) for name, costs in KINDS.items()))}

MEASURED = "measured"
"""What `--target` takes beside the names of targets: the CPU at hand with costs that are measured on it."""


def target_by_name(name: str) -> Target:
    """Find a target.

    Raises:
        LosparseError: there is none of that name.
    """
    if name not in TARGETS:
        raise LosparseError(f"target (--target) must be one of {', '.join([*TARGETS, MEASURED])}, got {name!r}")
    return TARGETS[name]


def check_target(target: object) -> None:
    """Refuse what is no `Target`, such as the name of one.

    Raises:
        LosparseError: see above.
    """
    if not isinstance(target, Target):
        raise LosparseError(f"target must be a Target, as losparse_export.CPU is, got {shown(target)}")


def prepare_model(model: ir.Model, target: Target = CPU) -> ir.Model:
    """Make the graph around the layers cheap, dense layers included; in place, before anything is lowered.

    Returns:
        The same model, whose token-wise nodes and factored layers work on (batch * sequence, features).
    """
    context = Finishing(target.costs, Traffic())
    ir.passes.Sequential(*(make(context) for make in target.prepare))(model)
    return model


def finish_planned(
    model: ir.Model,
    calls: Calls | Traffic | None = None,
    *,
    precision: str = "fp32",
    layers: Mapping[str, str] | None = None,
    target: Target = CPU,
    opset: int = NEWEST,
) -> tuple[ir.Model, list[str]]:
    """Take out what only moves or adds, store equal weights once, name everything, drop the trace's metadata; in place.

    Args:
        model: a lowered model.
        calls: to finish for; one text of 128 tokens by default.
        precision: which products outside the layers to quantise: "fp32" for none, "int8" for those that are faster for
            it, "all".
        layers: the same by qualified name of a layer.
        target: whose passes and costs.
        opset: ONNX operator set to write it in.

    Returns:
        The same model - equal input models give equal bytes - and the names of the products to quantise.
    """
    context = Finishing(target.costs, Traffic.of(calls), precision, layers or {}, opset)
    ir.passes.Sequential(*(make(context) for make in target.finish))(model)
    marked = quantised_nodes(model)
    ir.passes.Sequential(*(make(context) for make in LAST))(model)
    return model, marked
