"""Embedding tables that take a fourth of the room or less: int8 rows with a scale each, rows of lower rank, or both.

    ids (..)  -- rows[ids] (.., inner) -- * scale[ids] (..) -- @ mix (rank, width) --  (.., width)
                 int8, or floats          where rows are int8     where the rank is lower

`CompactTable` is what is saved; int8 rows and scales are buffers, which nothing trains and no change of dtype widens.
A head, or another table, that was tied to the table goes on reading the same rows: `TiedHead`, `TiedTable`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lazy_weight import LazyWeight
from .table import INT8_BITS, TableSpec

_LARGEST = 127
"""Largest magnitude of an int8 number here: -128 is left out, so that zero is in the middle."""


class CompactTable(nn.Module):
    """An embedding table of compact tensors; it is called as `nn.Embedding` is.

    Attributes:
        spec: its sizes, and how it is stored.
        rows: int8 in a buffer, or floats in a parameter; (rows, rank or width).
        scale: what each int8 row is multiplied by, None for floats; (rows,).
        mix: factor that widens a stored row, None where rows are whole; (rank, width).
        padding_idx: the row that stands for padding, or None.
    """

    rows: Tensor
    scale: Tensor | None
    mix: nn.Parameter | None

    def __init__(
        self,
        spec: TableSpec,
        *,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Allocate an empty table; fill it with `copy_` or by loading a state dict."""
        super().__init__()
        self.spec = spec
        self.padding_idx = padding_idx
        shapes = spec.shapes()
        if spec.bits == INT8_BITS:
            self.register_buffer("rows", torch.zeros(shapes["rows"], device=device, dtype=torch.int8))
            self.register_buffer("scale", torch.ones(shapes["scale"], device=device, dtype=dtype))
        else:
            self.register_parameter("rows", nn.Parameter(torch.zeros(shapes["rows"], device=device, dtype=dtype)))
            self.register_buffer("scale", None)
        mix = nn.Parameter(torch.zeros(shapes["mix"], device=device, dtype=dtype)) if spec.rank else None
        self.register_parameter("mix", mix)

    @property
    def num_embeddings(self) -> int:
        """Rows, as `nn.Embedding` calls them."""
        return self.spec.rows

    @property
    def embedding_dim(self) -> int:
        """Numbers of an embedding, as `nn.Embedding` calls them."""
        return self.spec.width

    def forward(self, ids: Tensor) -> Tensor:
        """Look tokens up.

        Args:
            ids: numbers of rows; integers (...).

        Returns:
            Their embeddings; (..., width).
        """
        if self.scale is None:
            picked = F.embedding(ids, self.rows, self.padding_idx)
        else:
            flat = ids.reshape(-1)
            picked = _dequantised(_picked(self.rows, flat), _picked(self.scale, flat))
            picked = picked.reshape(*ids.shape, self.spec.inner)
        return picked if self.mix is None else picked @ self.mix

    def scores(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply by the transposed table, as a tied head does: a score of every row.

        Args:
            x: (..., width).
            bias: added to the scores; (rows,) or None.

        Returns:
            (..., rows).
        """
        return F.linear(x if self.mix is None else F.linear(x, self.mix), self._stored_rows(), bias)

    def _stored_rows(self) -> Tensor:
        """Return the stored rows as floating-point numbers, with gradients; (rows, inner)."""
        # Not scores times scales: of plain int8 numbers they would be beyond the range of fp16.
        return self.rows if self.scale is None else _dequantised(self.rows, self.scale)

    def _dense(self) -> Tensor:
        """Return the table that this one stands for, with gradients; (rows, width)."""
        return self._stored_rows() if self.mix is None else self._stored_rows() @ self.mix

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """Return a copy of the table that this one stands for; (rows, width)."""
        return self._dense().clone()

    @property
    def weight(self) -> Tensor:
        """The table as models read it of `nn.Embedding`, computed when its values are used; (rows, width)."""
        like = self.rows if self.scale is None else self.scale
        return LazyWeight(self._dense, (self.spec.rows, self.spec.width), like)

    def extra_repr(self) -> str:
        """Return the sizes shown by `print(model)`."""
        return f"{self.spec.words}, padding_idx={self.padding_idx}"


def _picked(table: Tensor, places: Tensor) -> Tensor:
    """Return entries of a table's first axis, by their numbers; (n, ...) of the type of the table."""
    if torch.onnx.is_in_onnx_export():  # torch's own exporter puts a Reshape in front of it
        gathered: Tensor = torch.onnx.ops.symbolic(
            "Gather", (table, places), attrs={"axis": 0}, dtype=table.dtype, shape=(*places.shape, *table.shape[1:])
        )
        return gathered
    return table.index_select(0, places)


def _dequantised(rows: Tensor, scale: Tensor) -> Tensor:
    """Return int8 rows (n, inner) times their scales (n,), in the dtype of the scales."""
    if torch.onnx.is_in_onnx_export():
        # One node of one axis of rows, which onnxruntime runs as fast as it picks floats; a product takes five times.
        whole: Tensor = torch.onnx.ops.symbolic(
            "DequantizeLinear", (rows, scale), attrs={"axis": 0}, dtype=scale.dtype, shape=rows.shape
        )
        return whole
    return rows.to(scale.dtype) * scale.unsqueeze(1)


class _Tied(nn.Module):
    """Something that reads the rows of a table, and stores none."""

    def __init__(self, table: CompactTable) -> None:
        super().__init__()
        self._table = (table,)  # in a tuple, so that it does not become a part of this module

    @property
    def table(self) -> CompactTable:
        """The table that stores the rows."""
        return self._table[0]

    @property
    def weight(self) -> Tensor:
        """The table's weight; (rows, width)."""
        return self.table.weight


class TiedTable(_Tied):
    """A second table of the same rows: the decoder's of an encoder-decoder."""

    @property
    def num_embeddings(self) -> int:
        """Rows, as `nn.Embedding` calls them."""
        return self.table.spec.rows

    @property
    def embedding_dim(self) -> int:
        """Numbers of an embedding, as `nn.Embedding` calls them."""
        return self.table.spec.width

    @property
    def padding_idx(self) -> int | None:
        """The row that stands for padding, or None."""
        return self.table.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        """Look tokens up; see `CompactTable.forward`."""
        found: Tensor = self.table(ids)
        return found


class TiedHead(_Tied):
    """A linear head whose weight is the table's.

    Attributes:
        bias: (rows,) or None.
    """

    bias: nn.Parameter | None

    def __init__(self, table: CompactTable, bias: nn.Parameter | None) -> None:
        """Read the rows of `table`, and add `bias`, the parameter itself."""
        super().__init__(table)
        self.register_parameter("bias", bias)

    @property
    def in_features(self) -> int:
        """Inputs, as `nn.Linear` calls them."""
        return self.table.spec.width

    @property
    def out_features(self) -> int:
        """Outputs, as `nn.Linear` calls them."""
        return self.table.spec.rows

    def forward(self, x: Tensor) -> Tensor:
        """Return a score of every row; (..., width) -> (..., rows)."""
        return self.table.scores(x, self.bias)


@torch.no_grad()
def compact_table(
    weight: Tensor, *, int8: bool, rank: int = 0, counts: Tensor | None = None, padding_idx: int | None = None
) -> CompactTable:
    """Return the compact form of a table.

    Args:
        weight: the table, of finite numbers; (rows, width).
        int8: store rows in 8 bits.
        rank: numbers of a stored row; 0 stores whole rows.
        counts: how often each row is read, by which the errors of a lower rank weigh; None for all the same; (rows,).
        padding_idx: the row that stands for padding.

    Raises:
        LosparseError: the sizes do not fit, or nothing would be compact.
    """
    spec = TableSpec(int(weight.shape[0]), int(weight.shape[1]), rank, INT8_BITS if int8 else None)
    table = CompactTable(spec, padding_idx=padding_idx, device=weight.device, dtype=weight.dtype)
    stored = weight.float()
    if table.mix is not None:
        table.mix.copy_(_directions(stored, rank, counts))
        stored = stored @ table.mix.float().T
    if table.scale is None:
        table.rows.copy_(stored)
        return table
    top = stored.abs().amax(1)
    # In the dtype that scales are kept in, so that numbers are rounded by what they are multiplied by again.
    scale = (top / _LARGEST).to(weight.dtype)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a row of zeros, or what the dtype takes for one
    table.scale.copy_(scale)
    table.rows.copy_((stored / scale.float().unsqueeze(1)).round().clamp(-_LARGEST, _LARGEST))
    return table


def _directions(table: Tensor, rank: int, counts: Tensor | None) -> Tensor:
    """Return the orthonormal directions that a table's rows are kept in: those of its largest singular values.

    With counts, of the table whose rows are multiplied by their roots: the directions then leave the smallest mean
    squared error over the tokens of the texts.

    Args:
        table: (rows, width).
        rank: how many.
        counts: (rows,) or None.

    Returns:
        (rank, width).
    """
    rows = table.double()
    weighted = rows if counts is None else rows * (counts.to(rows) + 1.0).unsqueeze(1)  # rows never read count as once
    directions: Tensor = torch.linalg.eigh(rows.T @ weighted)[1]  # ascending; (width, width) for any number of rows
    return directions[:, -rank:].flip(1).T.to(table.dtype)
