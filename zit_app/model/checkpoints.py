"""Weights of single-file checkpoints under diffusers' names: converted, scaled formats multiplied out, complete.

N outputs, K inputs of a linear layer, G size of a rotated group.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors import safe_open

from zit_app.core.checkpoints import SIDE_KEYS, Checkpoint, describe_file
from zit_app.core.errors import ZitError

State = dict[str, torch.Tensor]
_FORMATS = (
    "", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fn_rowwise", "float8_e4m3fn_blockwise", "int8", "int8_tensorwise",
)  # fmt: skip
_IGNORED = ("norm_final.weight", "scaled_fp8")  # of the original checkpoint, without a use; a mark without a value
_EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def load_single_file(file: Path, config: dict[str, Any], dtype: torch.dtype) -> ZImageTransformer2DModel:
    """The transformer of a checkpoint, on the CPU. Raises ZitError naming what does not fit."""
    with torch.device("meta"):
        model = ZImageTransformer2DModel.from_config(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state = transformer_state(describe_file(file), dtype)
    for name in ("x_pad_token", "cap_pad_token"):  # single rows, which GGUF files keep as plain vectors
        if name in state and state[name].numel() == wanted[name].numel():
            state[name] = state[name].view(wanted[name])
    _check(file, wanted, state)
    model.load_state_dict(state, assign=True)
    return model


def transformer_state(found: Checkpoint, dtype: torch.dtype) -> State:
    """All weights of the transformer in ``dtype``. Raises ZitError for formats that are not read and for NaN."""
    state: State = {}
    for name, weight in read_weights(found.path, found.prefix):
        names = diffusers_names(name)
        shares = weight.to(dtype).chunk(len(names))
        state.update({new: share.contiguous() for new, share in zip(names, shares, strict=True)})
    return state


def load_encoder_file(file: Path, prefix: str, model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Fill a text encoder that was built on the meta device. Raises ZitError naming what does not fit."""
    state = {name: weight.to(dtype) for name, weight in read_weights(file, prefix)}
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _check(file, wanted, {name: weight for name, weight in state.items() if name in wanted})
    model.load_state_dict(state, assign=True, strict=False)  # what is more is the head that guesses the next word


def load_vae_file(file: Path, prefix: str, config: dict[str, Any], dtype: torch.dtype) -> AutoencoderKL:
    """The autoencoder of a file in the original layout, by diffusers' own conversion."""
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(config)
    state = convert_ldm_vae_checkpoint({name: w.to(dtype) for name, w in read_weights(file, prefix)}, config)
    _check(file, {name: tensor.shape for name, tensor in vae.state_dict().items()}, state)
    vae.load_state_dict(state, assign=True)
    return vae


def read_weights(file: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors behind a prefix, without it, as they are meant. Raises ZitError for unread formats and for NaN."""
    read = _gguf_weights if file.suffix.lower() == ".gguf" else _safetensors_weights
    for name, weight in read(file, prefix):
        if not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise ZitError(f"{file.name} is damaged: {name} holds values that are no numbers.", "Get it anew.")
        yield name, weight


def diffusers_names(name: str) -> tuple[str, ...]:
    """The names that a key of the original checkpoint has in diffusers; three for a fused projection."""
    for old, new in (("x_embedder.", "all_x_embedder.2-1."), ("final_layer.", "all_final_layer.2-1.")):
        if name.startswith(old):
            return (new + name.removeprefix(old),)
    for old, new in (("q_norm", "norm_q"), ("k_norm", "norm_k"), ("attention.out", "attention.to_out.0")):
        name = name.replace(f".{old}.", f".{new}.")
    if ".attention.qkv." in name:
        return tuple(name.replace(".qkv.", f".to_{one}.") for one in "qkv")
    return (name,)


def dequantized(weight_NK: torch.Tensor, scale: torch.Tensor | None, layer: dict[str, Any], where: str) -> torch.Tensor:
    """The weight that a scaled 8-bit one stands for, float32: ``w = stored * scale``, scale of the whole tensor, of a
    row or of a block; rotated ones (``convrot``) turned back. Raises ZitError for a format that is not read.
    """
    kind = str(layer.get("format") or "")
    if kind not in _FORMATS:
        raise ZitError(
            f"{where} is stored as {kind}, which cannot be read.", "Get the bf16, fp8, int8 or GGUF version."
        )
    if scale is None:
        if weight_NK.dtype == torch.int8:
            raise ZitError(f"{where} is int8 without its scale.", "Copy or download the file again.")
        return weight_NK.float()
    w, s = weight_NK.float(), scale.float()
    if s.numel() == 1:
        w = w * s.reshape(())
    elif s.numel() == s.shape[0] == w.shape[0]:
        w = w * s.view(-1, 1)
    elif s.ndim == 2 and not (w.shape[0] % s.shape[0] or w.shape[1] % s.shape[1]):
        rows, columns = w.shape[0] // s.shape[0], w.shape[1] // s.shape[1]
        w = w * s.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    else:
        raise ZitError(f"{where} has a scale of shape {tuple(s.shape)}.", "Copy or download the file again.")
    return unrotated(w, int(layer.get("convrot_groupsize", 256))) if layer.get("convrot") else w


def unrotated(w_NK: torch.Tensor, group: int) -> torch.Tensor:
    """Undo ``W H`` per group of G inputs; H is the regular Hadamard matrix, symmetric and its own inverse."""
    seed = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    hadamard_GG = torch.ones(1, 1)
    while len(hadamard_GG) < group:
        hadamard_GG = torch.kron(hadamard_GG, seed)
    return (w_NK.view(len(w_NK), -1, group) @ hadamard_GG).view_as(w_NK)


def _safetensors_weights(path: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        keys = {key.removeprefix(prefix): key for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
        described = json.loads((file.metadata() or {}).get("_quantization_metadata", "{}")).get("layers", {})
        for name, key in keys.items():
            base, _, ending = name.rpartition(".")
            if ending in SIDE_KEYS or name in _IGNORED:
                continue
            weight = file.get_tensor(key)
            if ending == "weight":
                scale = next(
                    (keys[one] for one in (f"{base}.weight_scale", f"{base}.scale_weight") if one in keys), None
                )
                layer = described.get(f"{prefix}{base}") or described.get(base) or {}
                if f"{base}.comfy_quant" in keys:
                    layer = json.loads(bytes(file.get_tensor(keys[f"{base}.comfy_quant"]).tolist()))
                if scale or layer or weight.dtype in _EIGHT_BITS:
                    where = f"{name} in {path.name}"
                    weight = dequantized(weight, file.get_tensor(scale) if scale else None, layer, where)
            yield name, weight


def _gguf_weights(path: Path, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Through ggml's own Python package."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ZitError(f"{path} is cut short: its end is missing.", "Copy or download it again.") from error
    for tensor in reader.tensors:
        name = str(tensor.name).removeprefix(prefix)
        if name not in _IGNORED:
            shape = tuple(int(side) for side in reversed(tensor.shape))
            yield name, torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy()).view(shape)


def _check(file: Path, wanted: dict[str, torch.Size], state: State) -> None:
    missing, left = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & state.keys() if wanted[name] != state[name].shape)
    for names, what in ((missing, "lacks"), (left, "holds unknown"), (other, "has another shape of")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ZitError(f"{file.name} {what} {', '.join(names[:3])}{more}.", "Get a whole file.")
