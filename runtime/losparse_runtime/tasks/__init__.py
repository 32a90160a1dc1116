"""What a folder's model is for: texts in, labels, scores, vectors, spans out. One file a helper, one line here."""

from __future__ import annotations

from typing import Any

from . import answer, classify, embed, rank, tag
from .base import Helper

HELPERS: dict[str, Helper[Any]] = {
    helper.name: helper for helper in (classify.HELPER, rank.HELPER, tag.HELPER, answer.HELPER, embed.HELPER)
}
"""By the name that tasks call them (`Task.helper`)."""
