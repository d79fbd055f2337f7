"""Cached tensors on disk: latents of a picture, features of a caption. Written whole or not at all, verified on read.

C channels, H and W latent height and width, L tokens, D caption width.
"""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing


def write_latents(path: Path, fingerprint: str, mean_CHW: Tensor, logvar_CHW: Tensor) -> None:
    """Write the posterior of the VAE as it is (neither shifted nor scaled), in float32."""
    _write(path, fingerprint, {"mean": mean_CHW.float(), "logvar": logvar_CHW.float()})


def read_latents(path: Path, fingerprint: str) -> tuple[Tensor, Tensor]:
    """(mean, logvar), both (C, H, W) float32. Raises ZitError when the file is not whole or not the one asked for."""
    tensors = _read(path, fingerprint, ("mean", "logvar"))
    mean, logvar = tensors["mean"], tensors["logvar"]
    if mean.ndim != 3 or mean.shape != logvar.shape:
        raise _damaged(path, f"its shapes are {tuple(mean.shape)} and {tuple(logvar.shape)}")
    return mean, logvar


def write_text(path: Path, fingerprint: str, features_LD: Tensor) -> None:
    """Write the features of one caption, real tokens only, in the precision in which they were computed."""
    _write(path, fingerprint, {"features": features_LD})


def read_text(path: Path, fingerprint: str) -> Tensor:
    """Features (L, D). Raises ZitError when the file is not whole or not the one asked for."""
    features = _read(path, fingerprint, ("features",))["features"]
    if features.ndim != 2:
        raise _damaged(path, f"its shape is {tuple(features.shape)}")
    return features


def _write(path: Path, fingerprint: str, tensors: dict[str, Tensor]) -> None:
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # No fsync: after a power cut the worst is a file that verification finds damaged and builds again.
    with replacing(path, durable=False) as temporary:
        save_file(whole, temporary, metadata={"fingerprint": fingerprint})


def _read(path: Path, fingerprint: str, names: tuple[str, ...]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                raise _damaged(path, "it belongs to something else")
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError as error:
        raise _damaged(path, "it is missing") from error
    except (SafetensorError, OSError) as error:
        raise _damaged(path, f"{error}") from error
    for name, tensor in tensors.items():
        if not math.prod(tensor.shape) or not torch.isfinite(tensor).all():
            path.unlink(missing_ok=True)  # its head is whole, so only this tells that it must be built anew
            raise _damaged(path, f"{name} is empty or not finite")
    return tensors


def _damaged(path: Path, why: str) -> ZitError:
    return ZitError(f"The cached file {path} cannot be used: {why}.", "Run `zit cache` again; it builds it anew.")
