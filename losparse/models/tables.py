"""The embedding tables of a model: which are worth making compact, and what else reads their rows.

A table may be read under several names: the head of a language model and the decoder's table are tied to it. In memory
such modules hold the same parameter; a model that is being loaded says so in `all_tied_weights_keys`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import LosparseError
from ..layers.embedding import CompactTable, TiedHead, TiedTable
from ..layers.linear import replace_module

_SMALLEST = 16
"""Rows, and numbers of a row, below which a table stays: those of token types, and of biases by distance."""


@dataclass(frozen=True)
class Table:
    """A dense table, and who reads it.

    Attributes:
        name: qualified name of the module that stores it.
        module: that module.
        readers: modules that are tied to it, by qualified name: other tables, and heads.
    """

    name: str
    module: nn.Embedding
    readers: Mapping[str, nn.Module]


def compact_tables(model: nn.Module) -> dict[str, CompactTable]:
    """Return the tables of a model that are compact, by qualified name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, CompactTable)}


def stored_parameters(model: nn.Module) -> int:
    """Count the numbers that a model stores: its parameters, and the rows of tables in 8 bits, which are buffers."""
    rows = sum(table.rows.numel() for table in compact_tables(model).values() if table.scale is not None)
    return rows + sum(parameter.numel() for parameter in model.parameters())


def find_tables(model: nn.Module) -> list[Table]:
    """Find the tables outside the blocks that are worth making compact, in the model's order.

    Left alone are subclasses of `nn.Embedding`, which do more than look up, and small tables.

    Raises:
        LosparseError: a table shares its rows with what is neither a table nor a linear layer, or against what the
            model's configuration says.
    """
    tied = _tied_names(model)
    owners: dict[int, dict[str, nn.Module]] = defaultdict(dict)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)][name] = module
    found, seen = [], set()
    for name, module in model.named_modules():
        if not _is_worth_it(name, module) or id(module.weight) in seen:
            continue
        seen.add(id(module.weight))
        group = owners[id(module.weight)]
        source = next((tied[f"{each}.weight"].rpartition(".")[0] for each in group if f"{each}.weight" in tied), name)
        table = group.get(source)
        if not isinstance(table, nn.Embedding):
            source, table = name, module
        assert isinstance(table, nn.Embedding), "only tables are worth it"
        readers = {each: reader for each, reader in group.items() if each != source}
        _check_readers(model, source, readers, tied)
        found.append(Table(source, table, readers))
    return found


def _is_worth_it(name: str, module: nn.Module) -> bool:
    # T5 keeps a table of distances within a block, which is no embedding; blocks are numbered.
    if type(module) is not nn.Embedding or any(part.isdigit() for part in name.split(".")):
        return False
    return min(module.weight.shape) >= _SMALLEST


def _check_readers(model: nn.Module, name: str, readers: Mapping[str, nn.Module], tied: Mapping[str, str]) -> None:
    """Refuse readers that cannot read compact rows, and ties that a checkpoint of the model would lose."""
    for each, reader in readers.items():
        if type(reader) not in (nn.Embedding, nn.Linear):
            raise LosparseError(
                f"table {name!r} shares its weight with {each!r}, a {type(reader).__name__}, which cannot read compact "
                "rows; leave the model's embeddings as they are"
            )
        if hasattr(model, "config") and tied.get(f"{each}.weight") != f"{name}.weight":
            raise LosparseError(
                f"table {name!r} shares its weight with {each!r}, and the model's configuration does not say so: it "
                "would be lost in a checkpoint; set tie_word_embeddings in its config, or untie them"
            )


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Return the parameters that a transformers model ties, by qualified name: what each is tied to."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def tied_readers(model: nn.Module, name: str) -> dict[str, nn.Module]:
    """Return what a model's class ties to a table: tables and linear layers by qualified name."""
    names = [target.rpartition(".")[0] for target, source in _tied_names(model).items() if source == f"{name}.weight"]
    return {each: model.get_submodule(each) for each in names}


def place_table(model: nn.Module, name: str, table: CompactTable, readers: Mapping[str, nn.Module]) -> None:
    """Put a compact table in the place of a dense one, and readers of its rows in the places of what was tied to it."""
    replace_module(model, model.get_submodule(name), table)
    for reader in readers.values():
        if isinstance(reader, nn.Embedding):
            replace_module(model, reader, TiedTable(table))
        else:
            bias = reader.bias
            assert bias is None or isinstance(bias, nn.Parameter), "readers are tables and linear layers"
            replace_module(model, reader, TiedHead(table, bias))
    _untie(model, {f"{each}.weight" for each in (name, *readers)})


def _untie(model: nn.Module, names: set[str]) -> None:
    """Have transformers no longer tie parameters that are gone: modules tied to a table look its rows up themselves."""
    for prefix, module in model.named_modules():
        own: Any = module
        local = {each.removeprefix(f"{prefix}.") for each in names if each.startswith(f"{prefix}.") or not prefix}
        if isinstance(getattr(own, "all_tied_weights_keys", None), dict):
            kept = own.all_tied_weights_keys.items()
            own.all_tied_weights_keys = {t: s for t, s in kept if t not in local and s not in local}
        if isinstance(getattr(own, "_tied_weights_keys", None), dict):  # of the class: patterns, in older families
            kept = own._tied_weights_keys.items()
            own._tied_weights_keys = {t: s for t, s in kept if not _names_one(t, local) and not _names_one(s, local)}


def _names_one(pattern: str, names: set[str]) -> bool:
    return any(re.match(pattern, name) for name in names)
