"""One verb: `compress_embeddings_(model)` makes embedding tables compact, before or after `compress_`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import LosparseError
from .layers.embedding import compact_table
from .layers.table import TableSpec
from .models.quantised import computed_as_quantised
from .models.tables import Table, compact_tables, find_tables, place_table
from .saving.quantizer import mark_compressed


def compress_embeddings_(
    model: nn.Module, *, int8: bool = True, rank: float | None = None, counts: Tensor | None = None
) -> dict[str, TableSpec]:
    """Make a model's embedding tables compact, in place: of tokens and of positions.

    Rows in 8 bits are a fourth of the size. They are frozen, and so is what is tied to them: a language model's head
    reads the same rows. If one table cannot be replaced, none is.

    Args:
        model: dense or with factored layers; a transformers model also gets the entry in its config that
            `save_pretrained` writes.
        int8: store rows in 8 bits, with one scale each.
        rank: store rows of this share of their width, in (0, 1), and a factor that widens them; tables that would not
            become smaller by it keep their width. None keeps the width of all.
        counts: how often each token occurs in the texts at hand, by which errors of a lower rank weigh; (rows,) of
            the tokens' table, None for all the same.

    Returns:
        What the tables are now, by qualified name.

    Raises:
        LosparseError: nothing is asked for, the model has no table to take or compact ones already, or a table cannot
            be read compactly or holds NaN or infinity.
    """
    if not int8 and rank is None:
        raise LosparseError("compress_embeddings_ needs int8=True or a rank, got neither; give one, or leave it out")
    if rank is not None and not 0.0 < rank < 1.0:
        raise LosparseError(f"rank must be a share of the width in (0, 1), got {rank!r}")
    there = compact_tables(model)
    if there:
        raise LosparseError(f"the embeddings are compact already ({next(iter(there))!r}); start from the dense model")
    tables = find_tables(model)
    words = _table_of_tokens(model, tables)
    if counts is not None and (words is None or tuple(counts.shape) != (words.module.num_embeddings,)):
        raise LosparseError(
            f"counts must be one number for each row of the tokens' table, {words and words.name!r}, got the shape "
            f"{tuple(counts.shape)}"
        )
    new = {}
    for table in tables:
        if not torch.isfinite(table.module.weight).all():
            raise LosparseError(f"table {table.name!r} holds NaN or infinity; mend the model before compressing it")
        shape = table.module.num_embeddings, table.module.embedding_dim
        own = _rank_of(rank, *shape)
        if not int8 and not own:
            continue
        new[table.name] = compact_table(
            table.module.weight.detach(),
            int8=int8,
            rank=own,
            counts=counts if table is words else None,
            padding_idx=table.module.padding_idx,
        )
    if not new:
        raise LosparseError(f"{type(model).__name__} has no embedding table to make smaller; leave out embeddings")
    with computed_as_quantised(model):
        for table in tables:
            if table.name in new:
                place_table(model, table.name, new[table.name].train(table.module.training), table.readers)
    mark_compressed(model, None)
    return {name: table.spec for name, table in new.items()}


def _table_of_tokens(model: nn.Module, tables: Sequence[Table]) -> Table | None:
    """Return the table that token ids are looked up in; of a model that does not say, that of the most rows."""
    said = getattr(model, "get_input_embeddings", lambda: None)()
    for table in tables:
        if said is table.module or said in table.readers.values():
            return table
    return max(tables, key=lambda table: table.module.num_embeddings, default=None)


def _rank_of(share: float | None, rows: int, width: int) -> int:
    """Return the rank of a table, 0 where two factors would not be smaller than it."""
    rank = 0 if share is None else max(1, round(share * width))
    return rank if rank * (rows + width) < rows * width else 0
