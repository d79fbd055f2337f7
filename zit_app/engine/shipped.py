"""The model as it will be used: its adapter as saved to a file, applied as at inference, training aids taken off."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from zit_app.engine.checkpoints import TrainState
from zit_app.engine.work import Work
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_stack import AdapterStack, apply_adapters
from zit_app.model.adapters import adapter_disabled, file_alpha


def write_adapter(work: Work, state: TrainState, path: Path) -> None:
    """The adapter file of this moment: the averaged weights where an average is kept."""
    lora = work.settings.lora
    alpha = file_alpha(lora.network_type, lora.network_dim, lora.network_alpha, lora.rslora, lora.lokr_full_rank)
    save_adapter(path, state.weights(), lora.network_dim, alpha, {**work.metadata, "ss_steps": f"{state.step}"})


@contextmanager
def as_saved(work: Work, state: TrainState) -> Iterator[AdapterStack]:
    """Within the block the transformer computes what it will with the saved file, to the bit; gradients are off.

    The file is really written and read: rounding, scale and layout are then those of any later use.
    """
    with TemporaryDirectory() as folder:
        write_adapter(work, state, Path(folder) / "adapter.safetensors")
        adapter = read_adapter(Path(folder) / "adapter.safetensors")
    wrapped = {f"{name}.base_layer": change for name, change in adapter.modules.items()}  # as peft calls what it wraps
    with torch.no_grad(), state.unguarded(), adapter_disabled(state.transformer):
        stack = apply_adapters(state.transformer, [(dataclasses.replace(adapter, modules=wrapped), 1.0, 1, 0)])
        try:
            yield stack
        finally:
            stack.remove()
