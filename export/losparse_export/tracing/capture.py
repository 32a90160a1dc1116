"""torch.export of a model that stays as it is, and a refusal where the program would hold for some lengths alone.

A model may take another way through its code for long inputs than for short ones: BigBird attends to everything up to
some hundred tokens, and to blocks beyond. A program holds one way only. torch says so where the way hangs on a size,
either with an error ("sequence = Dim('sequence', max=36)") or, for conditions that it cannot bring into that form, with
an assertion inside the program, which no ONNX graph has. Both are heard here.

Such models also change themselves on the way - BigBird keeps the attention of the first input for all that follow - so
what is run is a copy: the weights are shared, everything else is its own.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.onnx._internal.exporter._flags import set_onnx_exporting_flag

from losparse.errors import LosparseError
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import BATCH, PAST, SEQUENCE, TOKENS, TOTAL

from ..opening.copies import private_copy

# How torch proposes a narrower axis: "sequence = 7", "sequence = Dim('sequence', min=2, max=36)", "sequence = 4*_s".
_PROPOSAL = re.compile(rf"^\s*({BATCH}|{SEQUENCE}) = (.+)$", re.MULTILINE)
_BOUND = re.compile(r"(min|max)=(\d+)")


def axes_of(signature: Signature, shortest: int, longest: int) -> dict[str, dict[int, Any]]:
    """Name the free axes of every input, as torch's exporters take them.

    Args:
        signature: of the model.
        shortest: tokens a text has at least.
        longest: tokens it has at most.
    """
    axes = signature.free_axes()
    bounds = {SEQUENCE: {"min": shortest, "max": longest}, PAST: {"min": 0, "max": longest}}
    # torch has no sum of two axes; it finds by itself that this one follows from the others.
    sizes: dict[str, Any] = {TOTAL: torch.export.Dim.DYNAMIC}
    for axis in (axis for named in axes.values() for axis in named.values()):
        if axis not in sizes:
            sizes[axis] = torch.export.Dim(axis, **bounds.get(axis, {"min": 1}))
    return {name: {place: sizes[axis] for place, axis in named.items()} for name, named in axes.items()}


# As inside torch.onnx.export: factored layers then leave a node of their own.
@set_onnx_exporting_flag
def capture_program(
    module: nn.Module,
    sample: Mapping[str, Tensor],
    *,
    signature: Signature,
    longest: int,
    name: str,
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
) -> ExportedProgram:
    """Run a module with symbols for its free axes, and return what it did.

    Args:
        module: what `arguments` makes of inputs by name is what it takes; it is not changed.
        sample: inputs by name.
        signature: which of their axes are free.
        longest: tokens that the program must hold for.
        name: what to call the model in messages.
        arguments: groups what belongs to the inputs, as the module takes it.

    Returns:
        The program. Where its code treats very short texts in another way it is that for the longer ones; whether it
        holds for the short ones too, the comparison with PyTorch sees, which always looks at 1 and 2 tokens.

    Raises:
        LosparseError: torch cannot follow the model, or the program would hold for some sizes alone.
    """
    shortest = 1
    tokens = sample[signature.named("tokens") or TOKENS].shape[1]
    while True:
        try:
            axes = arguments(axes_of(signature, shortest, longest))
            program = _export(private_copy(module), arguments(sample), axes)
        except LosparseError:
            raise
        except GuardOnDataDependentSymNode as error:
            raise LosparseError(_by_value(name, error)) from error
        except Exception as error:  # torch's other kinds, and whatever the model's own code raises
            needed = _needed_tokens(str(error), name, longest)
            if needed is not None and shortest < needed <= tokens:
                shortest = needed
                continue
            cause = error.__cause__ or error
            line = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
            raise LosparseError(f"torch.export cannot trace {name}: {line}") from error
        _refuse_assumptions(program, signature, name, longest)
        return program


def _export(module: nn.Module, sample: Mapping[str, Any], axes: Mapping[str, Any]) -> ExportedProgram:
    # Sizes of 1 are then no special case. Conditions on sizes that the axes do not say become assertions.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(
            module,
            (),
            dict(sample),
            dynamic_shapes=dict(axes),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _by_value(name: str, error: Exception) -> str:
    """Say that the model's way hangs on numbers it computes, and at which of its own lines."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/transformers/" in frame.filename]
    last = frames[-1] if frames else None
    where = f" ({last.name}, line {last.lineno} of {last.filename.rpartition('/')[2]})" if last is not None else ""
    return f"{name}: its code takes its way by numbers that it computes{where}, and a graph holds one way; not exported"


def _needed_tokens(message: str, name: str, longest: int) -> int | None:
    """Return from how many tokens on torch proposes the program to hold, if that is all it proposes.

    Raises:
        LosparseError: it proposes to hold for fewer sizes than the model takes.
    """
    if "Constraints violated" not in message:
        return None
    needed: int | None = None
    for axis, proposal in _PROPOSAL.findall(message):
        bounds = {end: int(number) for end, number in _BOUND.findall(proposal)}
        if axis == BATCH:
            raise LosparseError(f"{name}: its code depends on the number of rows ({axis} = {proposal}); not exported")
        if bounds.get("max", longest) < longest:
            raise _one_way(name, bounds["max"] + 1, longest)
        if "min" not in bounds:
            raise LosparseError(
                f"{name}: its code depends on the number of tokens itself ({axis} = {proposal}), so that a graph would "
                "hold for few lengths; not exported"
            )
        needed = bounds["min"]
    return needed


def _refuse_assumptions(program: ExportedProgram, signature: Signature, name: str, longest: int) -> None:
    """Refuse a program that asserts something about the length which does not hold for all lengths but 1.

    Nearly every program asserts that the length is not 1, a size that broadcasts; it holds there nevertheless, which
    the comparison with PyTorch sees.
    """
    symbol = _sequence_symbol(program, signature.named("tokens"))
    for node in program.graph.nodes:
        if node.target is not torch.ops.aten._assert_scalar.default or not isinstance(node.args[0], torch.fx.Node):
            continue
        condition = getattr(getattr(node.args[0].meta.get("val"), "node", None), "expr", None)
        if not isinstance(condition, sympy.Basic) or condition.free_symbols != {symbol}:
            continue
        broken = next((n for n in _telling(condition, longest) if not condition.subs(symbol, n)), None)
        if broken is not None:
            raise _one_way(name, broken, longest)


def _telling(condition: sympy.Basic, longest: int) -> list[int]:
    """The lengths from 2 on at which a condition may change: beside its numbers, and all up to some hundred."""
    numbers = {int(number) + step for number in condition.atoms(sympy.Integer) for step in (-1, 0, 1)}
    return sorted(n for n in {*range(2, 257), *numbers, longest} if 2 <= n <= longest)


def _sequence_symbol(program: ExportedProgram, tokens: str | None) -> sympy.Basic | None:
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name == tokens]
    size = values[0].shape[1] if values else None
    return getattr(getattr(size, "node", None), "expr", None)


def _one_way(name: str, switch: int, longest: int) -> LosparseError:
    return LosparseError(
        f"{name}: takes one way through its code below {switch} tokens and another from there to its {longest}, and a "
        "graph holds one; choose the way that serves all lengths in its config.json (BigBird: attention_type "
        "'original_full')"
    )
