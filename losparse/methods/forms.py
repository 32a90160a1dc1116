"""Layers as they are while a method trains them."""

from __future__ import annotations

from ..layers.training import TrainingForm
from .losparse.layer import FactoredLinearTraining
from .lpaf.layer import MixedRankLinear

TRAINING_FORMS: dict[str, type[TrainingForm]] = {
    kind.trainer: kind for kind in (FactoredLinearTraining, MixedRankLinear)
}
"""By the name that a checkpoint gives them."""
