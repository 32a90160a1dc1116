"""A machine to export for: what things cost there, which forms and passes it takes, and how onnxruntime runs on it.

A new target is one more value of this kind in `TARGETS`; nothing else names a provider, a cost or an order of passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from losparse.errors import LosparseError, shown

from .costs import Calls, Costs, Counts, Traffic
from .graph.opsets import NEWEST
from .lowerings import LOWERINGS, Lowering
from .passes import FINISH, LAST, PREPARE, Finishing, NamePass, PassMaker, quantised_nodes


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


# Measured with onnxruntime 1.31.1, CPU provider, one thread, Zen 3 (AVX2), at 16 to 1,024 tokens: a multiply-add takes
# about 0.026 ns there. The numbers are rough, and made to order forms that differ by much more than their error.
_ZEN3 = Costs(
    # 1.5 us.
    node=60_000.0,
    # 0.1 ns in cache, 0.4 ns outside.
    element=16.0,
    # Copied one float at a time: 7-8 ns each.
    gather=300.0,
    # Whole rows, a memcpy: 0.5 ns.
    move=21.0,
    # Without VNNI. With it, it takes half of that, and yet plans made with this number are faster there too: with 0.2
    # thin products are quantised as well, and whole models run 0.82 to 0.93 times as fast.
    int8=0.47,
    # 0.44 and 0.22 ns.
    quantise=17.0,
    scale=9.0,
    # The kernels work on panels of 16 columns.
    panel=32,
    narrower=0.2,
    error=3.0,
)

# Fusions of onnxruntime 1.31 that cost time on the CPU provider: as one node, normalisation and sum take several times
# as long. Without them a plain 12 x 768 export is 4-5 % faster in fp32 and 7-8 % in int8 (1 x 16 and 1 x 128, one
# thread, AVX2); our own graphs leave them little to fuse.
_SLOW_ON_CPU = ("SkipLayerNormFusion", "BiasSkipLayerNormFusion", "BiasGeluFusion")

CPU = Target("cpu", "CPUExecutionProvider", _ZEN3, _SLOW_ON_CPU)

# What torch.onnx.export writes, as onnxruntime runs it: an opponent of ours, and what other runtimes like best: in int8
# OpenVINO runs it about 1.2 times as fast as our export of the same dense model (6 x 384 at 128 tokens, AMX).
PLAIN = Target(
    "plain",
    "CPUExecutionProvider",
    _ZEN3,
    prepare=(lambda _: common.RemoveUnusedNodesPass(),),
    finish=(lambda _: NamePass(),),
)

TARGETS = {target.name: target for target in (CPU,)}


def target_by_name(name: str) -> Target:
    """Find a target.

    Raises:
        LosparseError: there is none of that name.
    """
    if name not in TARGETS:
        raise LosparseError(f"target (--target) must be one of {', '.join(TARGETS)}, got {name!r}")
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
