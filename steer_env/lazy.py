"""PyTorch takes seconds to import: here it loads when something of it is first used, not when it is named.

``from steer_env.lazy import torch`` in place of ``import torch``, in the modules that ``import steer_env`` reads.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class LazyModule(ModuleType):
    """A module that is imported at the first look into it."""

    def __getattr__(self, name: str) -> Any:
        value = getattr(import_module(self.__name__), name)
        setattr(self, name, value)  # found without this detour from now on
        return value


if TYPE_CHECKING:
    import torch
else:
    torch = LazyModule("torch")

__all__ = ["torch"]
