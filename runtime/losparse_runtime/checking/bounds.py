"""By what a comparison of numbers is judged: how far outputs of a precision may be from their reference."""

from __future__ import annotations

from dataclasses import dataclass

from ..compare import Parity

# Outputs smaller than this are compared as if they were of this magnitude: they are differences of larger numbers.
_SMALLEST_SCALE = 0.1


@dataclass(frozen=True)
class Bounds:
    """Bounds of one precision.

    Attributes:
        name: of the precision.
        difference: largest difference allowed of outputs of magnitude 1; scaled with the largest output.
        cosine: smallest centred cosine allowed; None where the difference alone says it.
    """

    name: str
    difference: float
    cosine: float | None

    def failure(self, parity: Parity, allowed: float, *, classifies: bool) -> tuple[str, str] | None:
        """Say what is wrong with a comparison and what is allowed, or None.

        Args:
            parity: the comparison.
            allowed: largest difference allowed, for the outputs at hand.
            classifies: whether the largest entry of a row is the answer.
        """
        if not parity.passed(allowed):
            return (f"{parity.max_abs:.2e}" if parity.finite else "NaN or infinity"), f"{allowed:.1e}"
        if self.cosine is None:
            return None
        if parity.centred_cosine < self.cosine:
            return f"a cosine of {parity.centred_cosine:.4f}", f"{self.cosine} or more"
        if classifies and parity.flip_margin > allowed:
            return f"another class than one that leads by {parity.flip_margin:.2e}", f"{allowed:.1e}"
        return None


def allowed_difference(tolerance: float, *magnitudes: float) -> float:
    """Scale a tolerance for outputs of magnitude 1 to the largest of some magnitudes."""
    return tolerance * max(_SMALLEST_SCALE, *magnitudes)


def relative_tolerance(allowed: float, *magnitudes: float) -> float:
    """Return the tolerance for outputs of magnitude 1 from which `allowed_difference` makes this difference."""
    return allowed / max(_SMALLEST_SCALE, *magnitudes)
