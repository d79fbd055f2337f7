"""Keep libraries from doing, whenever they are imported, what nobody here asked them for."""

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# Threads of torch that wait for each other on a processor do so at work, for 300,000 turns, before they let others have
# the core. Where two other programs kept both cores busy, a training step of the pocket model took 10 to 20 s by that,
# and 0.6 to 1.0 s with this; on an idle machine 0.26 s and 0.26 to 0.29. (GNU's OpenMP, torch's own on Linux.)
_TURNS = "10000"


def lean() -> None:
    """From now on the modules in `_WITHOUT` are imported without what their functions there leave out, and threads of
    torch wait without holding up other programs. What a user has set in the environment stays."""
    os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
    if not any(isinstance(finder, _Lean) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Lean())


@contextmanager
def importing() -> Iterator[None]:
    """For the imports that a program begins with: Python's collector of cycles does not look through half a million new
    objects again and again, and leaves them aside from then on, also when the program ends.

    A later block only pauses the collector: what is set aside is never given back, and models are no libraries.
    """
    first = not gc.get_freeze_count()
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        gc.enable()


class _Lean(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _WITHOUT:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute, without = spec.loader.exec_module, _WITHOUT[fullname]

            def run(module: ModuleType) -> None:
                with without(module):
                    execute(module)

            spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


@contextmanager
def _compiler(_module: ModuleType) -> Iterator[None]:
    """bitsandbytes, which diffusers and peft bring along, marks functions of its generic back end with
    ``torch.compile``, which loads inductor: 550 modules, a sixth of a cold start. Cards and processors have back ends
    of their own; the marked functions give the same values uncompiled."""
    torch: Any = sys.modules.get("torch")  # loaded by those that bring it along
    if torch is None:
        yield
        return
    real, torch.compile = torch.compile, _as_it_is
    try:
        yield
    finally:
        torch.compile = real


def _as_it_is(function: Any = None, **_settings: Any) -> Any:
    """``torch.compile`` in both of its uses, bare and with settings, that compiles nothing."""
    return function if function is not None else _as_it_is


@contextmanager
def _stub_files(module: ModuleType) -> Iterator[None]:
    """Gradio parses the source of each of its components and writes a type stub beside it, at every start: half of its
    import. Where the project is installed for all, it could not even write there."""
    yield
    module.create_or_modify_pyi = lambda *_about: None  # type: ignore[attr-defined]


@contextmanager
def _statistics(module: ModuleType) -> Iterator[None]:
    """diffusers imports scipy.stats, 170 modules, for the beta schedule of schedulers that are not used here."""
    yield
    module._scipy_available = False  # type: ignore[attr-defined]


@contextmanager
def _assignment(module: ModuleType) -> Iterator[None]:
    """transformers imports scipy.optimize, 300 modules, for the losses of object detectors, which are not used here."""
    yield
    module.is_scipy_available = lambda: False  # type: ignore[attr-defined]


_WITHOUT: dict[str, Callable[[ModuleType], AbstractContextManager[None]]] = {
    "bitsandbytes": _compiler,
    "diffusers.utils.import_utils": _statistics,
    "gradio.component_meta": _stub_files,
    "transformers.utils.import_utils": _assignment,
}
