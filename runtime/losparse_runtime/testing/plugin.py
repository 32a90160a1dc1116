"""The pytest plugin: the assertions as fixtures, which put what they measured into the JUnit report, failed or not.

It is loaded by its entry point wherever losparse is installed; the runtime itself only with the first fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..checking.report import CheckReport
    from ..timing.ratio import RatioVerdict
    from .assertions import Accuracy, Record


@pytest.fixture
def assert_parity(record_property: Record) -> Callable[..., CheckReport]:
    """See `losparse_runtime.testing.assert_parity`."""
    from . import assertions

    return partial(assertions.assert_parity, record=record_property)


@pytest.fixture
def assert_accuracy(record_property: Record) -> Callable[..., dict[str, Accuracy]]:
    """See `losparse_runtime.testing.assert_accuracy`."""
    from . import assertions

    return partial(assertions.assert_accuracy, record=record_property)


@pytest.fixture
def assert_latency(record_property: Record) -> Callable[..., RatioVerdict]:
    """See `losparse_runtime.testing.assert_latency`."""
    from . import assertions

    return partial(assertions.assert_latency, record=record_property)
