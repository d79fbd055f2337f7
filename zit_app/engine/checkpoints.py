"""Checkpoints that are whole or not there, from which a run goes on as if it had never been interrupted.

    checkpoints/step_000123/
        lora.safetensors        fp32 weights of the adapter
        optimizer.safetensors   its moments, "PARAMETER.NAME"
        random.safetensors      state of the one generator that every draw comes from
        average.safetensors     moving average of the weights, where one is kept
        coordinates.safetensors what the optimizer moves in the place of A, where that is another thing
        state.json              step, batches, sampler, best held-out loss, optimizer's plain values, digest of inputs
        adapter.safetensors     the same weights as a file to draw with

The learning rate is a function of the step and the data order one of seed and epoch, so neither has a state.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, replacing, write_json, writing
from zit_app.core.headers import read_header
from zit_app.engine.aids import Aid
from zit_app.engine.focus import Focus
from zit_app.flow.timesteps import SigmaSampler
from zit_app.model.adapters import load_lora_state, lora_state
from zit_app.model.null_space import NullSpace

_TENSOR_FILES = ("lora", "optimizer", "random")


@dataclass
class TrainState:
    """Everything that a training step changes. `step` counts optimizer steps done, `batches` batches taken."""

    transformer: ZImageTransformer2DModel
    optimizer: torch.optim.Optimizer
    sampler: SigmaSampler
    generator: torch.Generator
    focus: Focus
    aid: Aid | None = None  # on while training
    null_space: NullSpace | None = None  # where the LoRA learns in directions that unrelated prompts hardly use
    average: dict[str, Tensor] | None = None  # moving average of the weights, where one is kept
    best: float | None = None  # the lowest held-out loss so far
    step: int = 0
    batches: int = 0

    def weights(self) -> dict[str, Tensor]:
        """The adapter's weights as they are saved for use: the average where there is one."""
        return lora_state(self.transformer) if self.average is None else self.average

    def follow(self, decay: float) -> None:
        """``average ← d average + (1 - d) weights``; d grows with the steps, or the first ones would stay in it."""
        if self.average is not None:
            share = 1 - min(decay, (1 + self.step) / (10 + self.step))
            for name, weight in lora_state(self.transformer).items():
                self.average[name].lerp_(weight, share)

    def move(self) -> None:
        """A step of the optimizer along the gradients."""
        with nullcontext() if self.null_space is None else self.null_space.stepping():
            self.optimizer.step()
        self.optimizer.zero_grad()

    @contextmanager
    def unguarded(self) -> Iterator[None]:
        """Without what is on while training, as long as the block lasts."""
        if self.aid is None:
            yield
            return
        self.aid.take_off()
        try:
            yield
        finally:
            self.aid.put_on()

    @contextmanager
    def as_held(self) -> Iterator[None]:
        """As the model was when its untrained states were recorded, as long as the block lasts."""
        with self.unguarded() if self.aid is not None and self.aid.off_when_held else nullcontext():
            yield

    def draws(self) -> dict[str, Any]:
        """Where all randomness stands; the next draws follow from it."""
        sampler, focus = self.sampler.state(), self.focus.state()
        return {"generator": self.generator.get_state(), "sampler": sampler, "focus": focus}


def save_checkpoint(
    run_folder: Path,
    state: TrainState,
    draws: dict[str, Any],
    inputs: str,
    keep_last: int,
    write_adapter: Callable[[Path], None],
) -> Path:
    """Write `checkpoints/step_N/` beside its place, move it there when it is whole, then drop the oldest.

    draws   `state.draws()` as they stood before the next step's
    inputs  digest of model and data; a resume compares it
    Raises ZitError when the disk is full; the checkpoints before stay as they are.
    """
    parent = run_folder / "checkpoints"
    target = parent / f"step_{state.step:06d}"
    if target.exists():  # resumed there and stopped before the next step
        return target
    with writing(target):
        parent.mkdir(exist_ok=True)
        _remove_leftovers(parent)
        temporary = parent / f".{target.name}"
        try:
            temporary.mkdir()
            _write(temporary, state, draws, inputs)
            write_adapter(temporary / "adapter.safetensors")
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync_folder(parent)
        for old in _checkpoints(run_folder)[:-keep_last]:
            gone = parent / f".{old.name}"  # hidden first: a kill in between must not leave half a checkpoint in view
            os.replace(old, gone)
            shutil.rmtree(gone)
    return target


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The newest checkpoint of a run, None when there is none yet."""
    return next(reversed(_checkpoints(run_folder)), None)


def load_checkpoint(folder: Path, state: TrainState) -> str:
    """Put `state` back to where the checkpoint was taken; returns the digest of the inputs it was trained on.

    Raises ZitError when a file of it is damaged.
    """
    try:
        plain = read_json(folder / "state.json")
        names = [*_TENSOR_FILES, *_further(state)]
        for name in names:
            read_header(folder / f"{name}.safetensors")
    except ZitError as error:
        raise ZitError(
            f"The checkpoint {folder} is damaged: {error.what}", "Remove that folder; the one before is used then."
        ) from error
    tensors = {name: _load(folder / f"{name}.safetensors") for name in names}
    load_lora_state(state.transformer, tensors["lora"])
    for name, averaged in tensors.get("average", {}).items():
        assert state.average is not None
        state.average[name].copy_(averaged)
    if state.null_space is not None:
        state.null_space.load(tensors["coordinates"])
    state.optimizer.load_state_dict(_unpack(tensors["optimizer"], plain["optimizer"]))
    state.sampler.load(plain["sampler"])
    state.focus.load(plain["focus"])
    state.generator.set_state(tensors["random"]["generator"])
    state.step, state.batches, state.best = plain["step"], plain["batches"], plain["best"]
    return str(plain["inputs"])


def _write(folder: Path, state: TrainState, draws: dict[str, Any], inputs: str) -> None:
    moments, values = _pack(state.optimizer)
    files = {"lora": lora_state(state.transformer), "optimizer": moments, "random": {"generator": draws["generator"]}}
    files |= _further(state)
    for name, tensors in files.items():
        with replacing(folder / f"{name}.safetensors") as temporary:
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, temporary)
    plain = {
        "step": state.step,
        "batches": state.batches,
        "sampler": draws["sampler"],
        "focus": draws["focus"],
        "best": state.best,
        "optimizer": values,
        "inputs": inputs,
    }
    write_json(folder / "state.json", plain)


def _further(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """Files that only some trainings have."""
    average = {} if state.average is None else {"average": state.average}
    return average if state.null_space is None else {**average, "coordinates": state.null_space.coordinates}


def _load(path: Path) -> dict[str, Tensor]:
    # Copied, because safetensors maps the file: rotation removes it, which Windows refuses while it is mapped.
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def _pack(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors and plain values for JSON (Python writes floats exactly)."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for parameter, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{name}"] = value.detach().cpu().clone()  # 8-bit optimizers share their tables
            else:
                plain[f"{parameter}.{name}"] = value
    return tensors, {"values": plain, "groups": state["param_groups"]}


def _unpack(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain["values"]}.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": plain["groups"]}


def _checkpoints(run_folder: Path) -> list[Path]:
    return sorted((run_folder / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def _remove_leftovers(parent: Path) -> None:
    """What a killed process left half written or half removed."""
    for entry in parent.glob(".step_*"):
        shutil.rmtree(entry)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows has no such call and needs none."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
