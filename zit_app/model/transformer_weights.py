"""The weights of a transformer one by one, as diffusers names them, without building the model."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file

from zit_app.core.checkpoints import describe_file
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json, writing
from zit_app.core.models import weight_files
from zit_app.model.checkpoints import transformer_state


class TransformerWeights(Mapping[str, torch.Tensor]):
    """Names to weights, each read when it is asked for.

    ``given`` is a model folder, its `transformer` folder or a single file; the latter is converted as a whole, to bf16.
    Raises ZitError when it is none of them.
    """

    def __init__(self, given: Path) -> None:
        part = given / "transformer" if (given / "transformer").is_dir() else given
        self.files = [given] if given.is_file() else weight_files(part)
        self._state: dict[str, torch.Tensor] = {}
        self._where: dict[str, Path] = {}
        if given.is_file() or self.files[0].parent != part:
            self._state = transformer_state(describe_file(self.files[0]), torch.bfloat16)
        for file in self.files if not self._state else ():
            with safe_open(file, "pt") as opened:
                self._where |= dict.fromkeys(opened.keys(), file)
        if not self._state and not any(name.startswith("layers.0.attention.") for name in self._where):
            raise ZitError(f"{given} holds no transformer of a Z-Image.", "Give the folder of a Z-Image model.")

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._state:
            return self._state[name]
        with safe_open(self._where[name], "pt") as opened:
            return opened.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state or self._where)

    def __len__(self) -> int:
        return len(self._state or self._where)

    def names_by_file(self) -> Mapping[Path, list[str]]:
        """Which weights lie in which file."""
        return {file: [name for name, place in self._where.items() if place == file] for file in self.files}


def blank_transformer(folder: Path) -> ZImageTransformer2DModel:
    """The transformer of a model folder without its weights: names and shapes alone."""
    with torch.device("meta"):
        return ZImageTransformer2DModel.from_config(read_json(folder / "transformer" / "config.json"))


def copy_with(
    folder: Path,
    target: Path,
    weights: TransformerWeights,
    change: Callable[[str, torch.Tensor], torch.Tensor],
    step: Callable[[int, int], None],
) -> None:
    """Copy a model folder, its transformer's weights as ``change`` makes them; whole or not at all.

    One weight file is in memory at a time. Raises ZitError when the transformer is no folder of weight files.
    """
    if any(file.parent != folder / "transformer" for file in weights.files):
        raise ZitError(f"{folder.name} is a single file, not a folder.", "Merge into a model in diffusers' layout.")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file not in weights.files]
    try:
        with writing(target):
            for file in files:
                copy = unfinished / file.relative_to(folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            for done, (file, names) in enumerate(weights.names_by_file().items()):
                state = {name: change(name, weights[name]).contiguous() for name in names}
                save_file(state, unfinished / file.relative_to(folder), metadata={"format": "pt"})
                step(done + 1, len(weights.files))
            unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
