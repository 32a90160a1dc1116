"""The pytest plugin: the assertions as fixtures, which put what they measured into the JUnit report.

It is loaded by its entry point wherever losparse is installed; the runtime itself only with the first fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..checking.report import CheckReport
    from ..timing.ratio import RatioVerdict
    from .assertions import Accuracy

Record = Callable[[str, object], None]


@pytest.fixture
def assert_parity(record_property: Record) -> Callable[..., CheckReport]:
    """See `losparse_runtime.testing.assert_parity`."""
    from . import assertions

    def run(*args: Any, **options: Any) -> CheckReport:
        __tracebackhide__ = True
        report = assertions.assert_parity(*args, **options)
        for kind, part in report.parts.items():
            record_property(f"parity on {kind}", part.parity.max_abs)
        return report

    return run


@pytest.fixture
def assert_accuracy(record_property: Record) -> Callable[..., dict[str, Accuracy]]:
    """See `losparse_runtime.testing.assert_accuracy`."""
    from . import assertions

    def run(*args: Any, **options: Any) -> dict[str, Accuracy]:
        __tracebackhide__ = True
        found = assertions.assert_accuracy(*args, **options)
        for name, accuracy in found.items():
            record_property(f"accuracy of {name}", str(accuracy))
        return found

    return run


@pytest.fixture
def assert_latency(record_property: Record) -> Callable[..., RatioVerdict]:
    """See `losparse_runtime.testing.assert_latency`."""
    from . import assertions

    def run(*args: Any, **options: Any) -> RatioVerdict:
        __tracebackhide__ = True
        verdict = assertions.assert_latency(*args, **options)
        record_property("latency", verdict.words)
        return verdict

    return run
