"""What a folder's model is for: texts in, labels, scores, vectors, spans, texts out. A file a helper, one line here."""

from __future__ import annotations

from typing import Any

from . import answer, classify, embed, generate, rank, tag
from .base import Helper

HELPERS: dict[str, Helper[Any]] = {
    classify.HELPER.name: classify.HELPER,
    rank.HELPER.name: rank.HELPER,
    tag.HELPER.name: tag.HELPER,
    answer.HELPER.name: answer.HELPER,
    embed.HELPER.name: embed.HELPER,
    generate.HELPER.name: generate.HELPER,
}
"""By the name that tasks call them (`Task.helper`)."""
