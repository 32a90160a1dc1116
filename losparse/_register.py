"""Register losparse's quantiser when transformers is imported, without importing transformers.

`import losparse` must stay light - the command line's help, a serving image - and yet must be all it takes for
`AutoModelFor...from_pretrained` to open a compressed folder. So a finder watches for the one module that holds
transformers' registry and imports `losparse.saving.quantizer` right after it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_REGISTRY = "transformers.quantizers.auto"


class _RegisteringLoader(Loader):
    """The registry's own loader, with one import after it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        import_module("losparse.saving.quantizer")


class _RegistryFinder(MetaPathFinder):
    """Finds only the registry, and only once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the registry's spec, whose loader registers losparse too; None of every other module."""
        if fullname != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


def register_when_imported() -> None:
    """Register now if transformers' registry is loaded, else as soon as it is."""
    if _REGISTRY in sys.modules:
        import_module("losparse.saving.quantizer")
    elif not any(isinstance(finder, _RegistryFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegistryFinder())
