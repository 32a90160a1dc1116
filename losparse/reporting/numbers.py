"""Every number that a report shows, rounded in one place: the page, Markdown and JSON show the same digits.

A number that was not measured is shown as nothing, never as 0.
"""

from __future__ import annotations

import math

NOTHING = ""
"""What is shown of a number that there is none of."""


def points(value: float | None) -> str:
    """Show a metric in points, which are hundredths of it."""
    return NOTHING if value is None else f"{100 * value:.2f}"


def signed_points(value: float | None) -> str:
    """Show a difference of a metric in points, with its sign."""
    return NOTHING if value is None else f"{_no_minus_zero(100 * value, 2):+.2f}"


def plus_minus(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """Show a metric, or a difference of it, with its standard error."""
    if value is None:
        return NOTHING
    shown = signed_points(value) if signed else points(value)
    return shown if error is None else f"{shown} ± {points(error)}"


def megabytes(count: float | None) -> str:
    """Show a size; 1 MB is 1,000,000 bytes."""
    if count is None:
        return NOTHING
    size = count / 1e6
    return f"{size:.1f} MB" if size >= 10 else f"{size:.2f} MB"


def milliseconds(value: float | None) -> str:
    """Show a time with three digits."""
    return NOTHING if value is None else f"{_digits(value, 3)} ms"


def times(ratio: float | None) -> str:
    """Show how many times faster something is."""
    return NOTHING if ratio is None else f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.2f}x"


def share(value: float | None) -> str:
    """Show a share in per cent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def small(value: float | None) -> str:
    """Show a difference of numbers of a model, as in 1.2e-06."""
    return NOTHING if value is None else f"{value:.1e}"


def seconds(value: float | None) -> str:
    """Show how long a step took."""
    if value is None:
        return NOTHING
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def count(value: float | None) -> str:
    """Show a number of things."""
    return NOTHING if value is None else f"{value:,.0f}"


def _digits(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    after = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{after}f}"


def _no_minus_zero(value: float, after: int) -> float:
    return round(value, after) + 0.0
