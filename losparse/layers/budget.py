"""Shares of parameters to ranks and kept groups, and back.

`keep` is the kept share of the parameters of the compressed layers: low-rank part plus sparse part, neither biases
nor indices counted. All counts are parameters; shares have no unit.
"""

from __future__ import annotations

import math

from ..errors import LosparseError


def check_share(name: str, value: float) -> None:
    """Refuse a share outside (0, 1].

    Raises:
        LosparseError: the value is not a number in (0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise LosparseError(f"{name} must be in (0, 1], got {value!r}")


def break_even_rank(out_features: int, in_features: int) -> float:
    """Return the rank at which two factors hold as many parameters as the dense weight."""
    return out_features * in_features / (out_features + in_features)


def rank_for(share: float, out_features: int, in_features: int, *, name: str, round_up: bool) -> int:
    """Return the rank whose two factors hold `share` of a dense weight.

    Args:
        share: share of the dense parameters, in (0, 1].
        out_features: rows of the weight.
        in_features: columns of the weight.
        name: qualified name of the layer, for the message.
        round_up: round up as LoSparse does where that stays below break-even, else down (then the share is never
            exceeded), but not below 1.

    Raises:
        LosparseError: the rank reaches break-even, so the factors would be larger than the weight.

    References:
        LoSparse's reference implementation: r = ceil(rho * out * in / (out + in)).
    """
    limit = break_even_rank(out_features, in_features)
    down, up = max(1, math.floor(share * limit)), math.ceil(share * limit)
    rank = up if round_up and (up < limit or share >= 1.0) else down
    if rank >= limit:
        raise LosparseError(
            f"rank must be below the break-even {limit:.1f} for {name!r} ({out_features}x{in_features}), "
            f"got {rank} from a share of {share:g}; lower the share, or leave the layer dense with ignore="
        )
    return rank


def pivot_rank(share: float, out_features: int, in_features: int) -> int:
    """Return the largest rank whose pivot form holds at most `share` of a dense weight, but not below 1.

    Pivots hold rank * (in + out - rank) parameters: fewer than the dense weight at every rank below min(out, in), and
    as many at that rank, so there is no break-even.

    Args:
        share: share of the dense parameters, in (0, 1].
        out_features: rows of the weight.
        in_features: columns of the weight.

    References:
        PIFA (Zhao et al., ICML 2025), for the form; the rank is the smaller root of r^2 - r (in + out) + share in out.
    """
    total, allowed = in_features + out_features, share * in_features * out_features
    rank = int((total - math.sqrt(total * total - 4.0 * allowed)) / 2.0) + 1
    while rank > 1 and rank * (total - rank) > allowed:  # the root is rounded, the count is not
        rank -= 1
    return max(1, min(rank, in_features, out_features))
