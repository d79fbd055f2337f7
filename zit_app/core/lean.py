"""Keep a library from loading a compiler that nobody asked for."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_LIBRARY = "bitsandbytes"


def lean() -> None:
    """From now on bitsandbytes, which diffusers and peft bring along, is imported without torch's compiler.

    It marks functions of its generic back end with ``torch.compile``, which loads inductor: 550 modules, a sixth of a
    cold start. Cards and processors have back ends of their own; the marked ones give the same values uncompiled.
    """
    if not any(isinstance(finder, _Uncompiled) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Uncompiled())


class _Uncompiled(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _without_compiler(spec.loader.exec_module)  # type: ignore[assignment]
        return spec


def _without_compiler(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def run(module: ModuleType) -> None:
        torch: Any = sys.modules.get("torch")  # loaded by those that bring the library along
        if torch is None:
            return execute(module)
        real, torch.compile = torch.compile, _as_it_is
        try:
            execute(module)
        finally:
            torch.compile = real

    return run


def _as_it_is(function: Any = None, **_settings: Any) -> Any:
    """``torch.compile`` in both of its uses, bare and with settings, that compiles nothing."""
    return function if function is not None else _as_it_is
