"""A way of the untrained model to a picture, and its file in the run's folder: drawn once, there after a resume, too.

N nodes, C latent channels, H and W latent pixels.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zit_app.core.files import replacing

FOLDER = "ways"
OWN = "own_pictures"  # of a run's copy of a data set: its folder of pictures that the model drew itself


@dataclass(frozen=True)
class Way:
    """Where the untrained model passes; halves, since there are many."""

    x_NCHW: Tensor  # before the call at each node
    v_NCHW: Tensor  # its answers there
    x0_CHW: Tensor  # where it arrives

    @classmethod
    def along(cls, states_MCHW: Tensor, sigma_N: Tensor) -> "Way":
        """From the states before and after all of Euler's steps: M = N + 1, the last one at sigma 0."""
        steps_N = torch.diff(sigma_N.float(), append=torch.zeros(1))
        v_NCHW = states_MCHW.float().diff(dim=0) / steps_N[:, None, None, None]
        return cls(states_MCHW[:-1].half(), v_NCHW.half(), states_MCHW[-1].half())

    def write(self, path: Path) -> None:
        """Whole or not at all; what a power cut damages is drawn again."""
        with replacing(path, durable=False) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in vars(self).items()}, temporary)

    @classmethod
    def read(cls, path: Path) -> "Way | None":
        """None where there is none, or none that is whole. Its tensors are mapped from the file, not loaded."""
        try:
            with safe_open(path, framework="pt") as file:
                return cls(*(file.get_tensor(name) for name in cls.__dataclass_fields__))
        except (OSError, SafetensorError):
            return None


def place_of(name: str) -> int | None:
    """Which own picture a picture of a run's copy is, by its name there: number i is prompt i at seed i."""
    path = Path(name)
    return int(path.stem) if path.parts[0] == OWN else None


def own_file(run: Path, number: int) -> Path:
    """Of the model's own picture of this number."""
    return run / FOLDER / f"own_{number:06d}.safetensors"
