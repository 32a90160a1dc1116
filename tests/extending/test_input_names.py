"""No code asks for an input by its name: it asks a signature for the input of a role, or takes the name from there."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from losparse_runtime.contract.tensors import DECODER_MASK, DECODER_TOKENS, POSITIONS, TEXT_INPUTS

from .sources import files

NAMES = {*TEXT_INPUTS, POSITIONS, DECODER_TOKENS, DECODER_MASK}

ALLOWED = {
    # Where the names are given.
    "runtime/losparse_runtime/contract/tensors.py": NAMES,
    # torch calls the inputs of a program as the parameters of the module that it traces are called.
    "export/losparse_export/opening/task_model.py": set(TEXT_INPUTS),
    "export/losparse_export/opening/causal_model.py": {*TEXT_INPUTS, POSITIONS},
    # The rows of a table of positions, which transformers keeps in a module under the name of the input.
    "losparse/models/positions.py": {POSITIONS},
}


def names_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string, parameter, argument and attribute that is an input's name."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(name)) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                pass
            case ast.Attribute(attr=name):
                pass
            case _:
                continue
        if name in NAMES:
            yield node.lineno, name


def test_inputs_are_not_asked_by_name() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, tree in files()
        for line, name in names_in(tree)
        if name not in ALLOWED.get(path, set())
    ]
    assert found == []


def test_a_planted_name_is_seen() -> None:
    planted = '"""Takes input_ids."""\ndef run(attention_mask):\n    model(token_type_ids=batch["input_ids"])\n'
    assert sorted(names_in(ast.parse(planted))) == [(2, "attention_mask"), (3, "input_ids"), (3, "token_type_ids")]
