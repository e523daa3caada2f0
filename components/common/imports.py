"""Imports large packages without the optional ones that they would import too: for TensorFlow, these take half of the time.

Keras imports scikit-learn and Matplotlib for wrappers and plots, and TensorFlow Lite imports JAX for a converter. Nothing here
uses these parts, but the packages are installed, so every process that imported TensorFlow imported them too.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

UNUSED_BY_TENSORFLOW = ("jax", "matplotlib", "scipy", "sklearn")


@contextlib.contextmanager
def importing_without(*packages: str) -> Iterator[None]:
    """Import in this block as if these packages were not installed, unless they were imported before.

    The garbage collector is off meanwhile, because looking for garbage among modules took a sixth of TensorFlow's import. It
    ignores them afterwards, too: with every search that TensorFlow's tracing causes, they took a quarter of the processor time
    of a short training.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: the import system raises ModuleNotFoundError
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        if collecting:
            gc.enable()


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        with importing_without(*UNUSED_BY_TENSORFLOW):
            super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in ("tensorflow", "keras"):  # Keras imports TensorFlow, and TensorFlow imports Keras
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def lighten_tensorflow() -> None:
    """Let every later import of TensorFlow or Keras in this process leave out the packages that nothing here uses."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
