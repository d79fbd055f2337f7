"""Adapters written in the layouts that others read: ComfyUI's, for everything, and diffusers', for low ranks."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing
from zit_app.model.adapter_changes import Change, Dora, Factor, Full, Hadamard, Kron, LowRank
from zit_app.model.adapter_files import Adapter

LAYOUTS = ("comfyui", "diffusers")
# Notes that would be wrong in the file that is written.
STALE = (
    "lora_adapter_metadata", "format", "ss_network_dim", "ss_network_alpha", "sshs_model_hash", "sshs_legacy_hash",
    "modelspec.hash_sha256",
)  # fmt: skip
RANK_REMEDY = "Give --rank R: it becomes a LoRA of that rank, and the error is told."

Tensors = dict[str, torch.Tensor]


def write_adapter(path: Path, adapter: Adapter, layout: str = "comfyui") -> None:
    """Write an adapter whole or not at all; every tensor keeps its number format.

    Raises ZitError when the layout cannot say exactly what the adapter does.
    """
    tensors, noted = _diffusers(adapter) if layout == "diffusers" else (_comfyui(adapter), {})
    kept = {key: value for key, value in adapter.metadata.items() if key not in STALE}
    ranks = {change.rank for change in adapter.modules.values()}
    if len(ranks) == 1 and ranks != {0}:
        kept["ss_network_dim"] = f"{ranks.pop()}"
    whole = {key: tensor.cpu().contiguous().clone() for key, tensor in tensors.items()}  # slices share their memory
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={"format": "pt", **kept, **noted})


def _comfyui(adapter: Adapter) -> Tensors:
    out: Tensors = {}
    for name, change in adapter.modules.items():
        out |= {f"diffusion_model.{name}.{part}": tensor for part, tensor in _parts(name, change).items()}
    return out | {f"diffusion_model.{name}.diff_b": bias for name, bias in adapter.biases.items()}


def _parts(name: str, change: Change) -> Tensors:
    """A change under the names of kohya and LyCORIS, which ComfyUI reads; alpha = scale · rank."""
    if isinstance(change, LowRank):
        return {"lora_A.weight": change.down, "lora_B.weight": change.up, "alpha": _alpha(change.scale, change.rank)}
    if isinstance(change, Kron):
        return _kron_parts(name, change)
    if isinstance(change, Hadamard):
        parts = {f"hada_w{i}_{side}": tensor for i, pair in ((1, change.w1), (2, change.w2))
                 for side, tensor in zip("ab", pair, strict=True)}  # fmt: skip
        return {**parts, "alpha": _alpha(change.scale, change.w1[1].shape[0])}
    if isinstance(change, Dora):
        return {**_parts(name, change.inner), "dora_scale": change.magnitude}
    assert isinstance(change, Full)
    return {"diff": change.weight}


def _kron_parts(name: str, change: Kron) -> Tensors:
    if change.start or change.stop:
        raise ZitError(f"{name} is cut out of a larger LoKr, which cannot be written as one.", RANK_REMEDY)
    parts = {**_named("lokr_w1", change.w1), **_named("lokr_w2", change.w2)}
    rank = next((factor[1].shape[0] for factor in (change.w2, change.w1) if len(factor) == 2), 0)
    if rank:
        return {**parts, "alpha": _alpha(change.scale, rank)}
    if change.scale != 1.0:  # readers take two whole factors as they are, whatever alpha says
        parts["lokr_w2"] = (change.scale * change.w2[0].float()).to(change.w2[0].dtype)
    return {**parts, "alpha": torch.tensor(1.0)}


def _named(name: str, factor: Factor) -> Tensors:
    return {name: factor[0]} if len(factor) == 1 else {f"{name}_a": factor[0], f"{name}_b": factor[1]}


def _alpha(scale: float, rank: int) -> torch.Tensor:
    return torch.tensor(scale * rank, dtype=torch.float32)


def _diffusers(adapter: Adapter) -> tuple[Tensors, dict[str, str]]:
    """Low ranks, and what is one exactly; the scales go into the metadata, where diffusers looks for them."""
    if adapter.biases:
        raise ZitError("diffusers' layout has no place for changes of biases.", "Write ComfyUI's layout.")
    out: Tensors = {}
    shares: dict[str, LowRank] = {}
    doras = 0
    for name, change in adapter.modules.items():
        inner = change.inner if isinstance(change, Dora) else change
        share = inner.low_rank()
        if share is None or (isinstance(change, Dora) and not change.by_rows):
            remedy = RANK_REMEDY if len(change.shape) == 2 else "Write ComfyUI's layout."
            raise ZitError(f"diffusers' layout cannot hold the {change.kind} of {name}.", remedy)
        shares[name] = share
        out |= {f"transformer.{name}.lora_A.weight": share.down, f"transformer.{name}.lora_B.weight": share.up}
        if isinstance(change, Dora):
            doras += 1
            out[f"transformer.{name}.lora_magnitude_vector"] = change.magnitude[:, 0]
    if doras and doras < len(shares):
        raise ZitError("diffusers' layout cannot hold LoRA and DoRA in one file.", "Write ComfyUI's layout.")
    return out, _noted(shares, doras > 0)


def _noted(shares: Mapping[str, LowRank], dora: bool) -> dict[str, str]:
    """`lora_adapter_metadata` as diffusers writes it; needless when every scale is 1."""
    if all(share.scale == 1.0 for share in shares.values()) and not dora:
        return {}
    alphas = {name: share.scale * share.rank for name, share in shares.items()}
    rank = Counter(share.rank for share in shares.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        target_modules=sorted(shares),
        rank_pattern={name: share.rank for name, share in shares.items() if share.rank != rank},
        alpha_pattern={name: own for name, own in alphas.items() if own != alpha},
        use_dora=dora,
    )
    config.lora_alpha = alpha  # type: ignore[assignment]  # typed int, used as a factor
    fields = {f"transformer.{key}": value for key, value in config.to_dict().items()}
    return {"lora_adapter_metadata": json.dumps(fields, default=sorted, sort_keys=True)}
