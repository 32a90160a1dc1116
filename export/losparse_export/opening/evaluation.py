"""A model as it is exported: in evaluation mode, with an attention that can be traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from losparse.calibration.modes import evaluating


@contextmanager
def evaluation(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode with an attention that can be traced, and back."""
    attention = model.config._attn_implementation
    wanted = "sdpa" if model._supports_sdpa else "eager"
    with evaluating(model):
        try:
            if attention != wanted:
                model.set_attn_implementation(wanted)
            yield
        finally:
            if model.config._attn_implementation != attention:
                model.set_attn_implementation(attention)
