"""One trace for all toys of the export: fixtures of a session are made once where they are listed once."""

from __future__ import annotations

from ..export.conftest import bert, bert_trace, export_bert, export_traced, traces

__all__ = ["bert", "bert_trace", "export_bert", "export_traced", "traces"]
