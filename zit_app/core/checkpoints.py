"""What a single-file checkpoint is, told from its head alone: layout, number format, shape of the model.

Layouts: diffusers' names, or those of the original checkpoint that ComfyUI uses (`attention.qkv`, `x_embedder`), bare
or behind a prefix; safetensors or GGUF. Formats: plain bf16, fp16, fp32 and fp8, and quantized linear layers:

    <layer>.weight fp8/int8 + <layer>.scale_weight          ComfyUI until 2025, marked by the key `scaled_fp8`
    <layer>.weight fp8/int8 + <layer>.weight_scale          ComfyUI since, described by `<layer>.comfy_quant` (JSON)
"""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.core.gguf import TYPES, read_gguf
from zit_app.core.headers import read_header

ENDINGS = (".safetensors", ".gguf")
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "model.", "")
_SIGN = "cap_embedder.1.weight"  # a linear layer from caption width to model width; no other family has it beside …
_REFINER = "noise_refiner.0.attention.{}.weight"
_OTHERS = (
    ("double_blocks.", "FLUX or a relative of it"),
    ("single_transformer_blocks.", "FLUX or a relative of it"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("input_blocks.", "Stable Diffusion 1, 2 or XL"),
    ("down_blocks.", "Stable Diffusion 1, 2 or XL, or a VAE"),
    ("decoder.up", "VAE"),
    ("control_", "ControlNet"),
    ("transformer_blocks.", "Qwen-Image or another transformer"),
    ("self_attn.", "text encoder or another language model"),
)
_ADAPTER_SIGNS = (".lora_", "lora_unet_", ".lokr_", ".hada_", ".dora_scale")
SIDE_KEYS = ("scale_weight", "weight_scale", "scale_input", "input_scale", "comfy_quant")
_FORMATS = {"F8_E4M3": "fp8", "F8_E5M2": "fp8 (e5m2)", "I8": "int8", "BF16": "bf16", "F16": "fp16", "F32": "fp32"}


Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """One file. ``prefix`` stands before the transformer's keys; ``others`` are keys outside of it (all-in-one)."""

    path: Path
    layout: str  # "diffusers" or "ComfyUI"
    format: str  # in words
    prefix: str
    config: dict[str, Any]  # of the transformer, as diffusers has it
    parameters: int
    others: tuple[str, ...]

    @property
    def words(self) -> str:
        """What it is, in one sentence."""
        size = (
            f"{self.parameters / 1e9:.2f} billion" if self.parameters > 5e8 else f"{self.parameters / 1e6:.1f} million"
        )
        more = " The file holds other parts, too." if self.others else ""
        return f"A Z-Image transformer of {size} weights in the layout of {self.layout}, {self.format}.{more}"


def describe_file(path: Path) -> Checkpoint:
    """Read the head of a checkpoint. Raises ZitError for a damaged file and for anything that is no Z-Image."""
    shapes, kinds = _gguf(path) if path.suffix.lower() == ".gguf" else _safetensors(path)
    prefix = next((known for known in _PREFIXES if known + _SIGN in shapes), None)
    if prefix is None or not any(prefix + _REFINER.format(name) in shapes for name in ("qkv", "to_q")):
        raise _foreign(path, shapes)
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    return Checkpoint(
        path=path,
        layout="ComfyUI" if _REFINER.format("qkv") in own else "diffusers",
        format=_format(path, {name: kinds[prefix + name] for name in own}),
        prefix=prefix,
        config=_config(path, own),
        parameters=sum(math.prod(shape) for name, shape in own.items() if name.rpartition(".")[2] not in SIDE_KEYS),
        others=tuple(sorted(name for name in shapes if not name.startswith(prefix))) if prefix else (),
    )


def shapes_of(path: Path) -> Shapes:
    """The shapes of all tensors in a safetensors file, by name. Raises ZitError when it is none."""
    return _safetensors(path)[0]


def _safetensors(path: Path) -> tuple[Shapes, dict[str, str]]:
    header = {name: entry for name, entry in read_header(path).items() if name != "__metadata__"}
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    return shapes, {name: entry["dtype"] for name, entry in header.items()}


def _gguf(path: Path) -> tuple[Shapes, dict[str, str]]:
    tensors = read_gguf(path)[1]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return shapes, {name: TYPES.get(tensor.type, f"type {tensor.type}") for name, tensor in tensors.items()}


def _config(path: Path, shapes: Shapes) -> dict[str, Any]:
    """The transformer's configuration, from the shapes of its weights."""
    try:
        dim, width = shapes[_SIGN]
        embedder = shapes.get("x_embedder.weight") or shapes["all_x_embedder.2-1.weight"]
        head = (shapes.get("layers.0.attention.q_norm.weight") or shapes["layers.0.attention.norm_q.weight"])[0]
    except (KeyError, ValueError, IndexError) as error:
        raise ZitError(f"{path.name} is an incomplete Z-Image transformer.", "Copy or download it again.") from error
    if any(name.startswith("siglip_") for name in shapes):
        raise ZitError(
            f"{path.name} is a Z-Image Omni, which needs its SigLIP beside it.", "Give it as a diffusers folder."
        )
    return {
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "in_channels": embedder[1] // 4,
        "dim": dim,
        "n_layers": _layers(shapes, "layers"),
        "n_refiner_layers": _layers(shapes, "noise_refiner"),
        "n_heads": dim // head,
        "n_kv_heads": dim // head,
        "norm_eps": 1e-5,
        "qk_norm": True,
        "cap_feat_dim": width,
        "siglip_feat_dim": None,
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        "axes_dims": [head // 4, head // 8 * 3, head // 8 * 3],
        "axes_lens": [1536, 512, 512],
    }


def _layers(shapes: Shapes, group: str) -> int:
    return len({name.split(".")[1] for name in shapes if name.startswith(f"{group}.")})


def _format(path: Path, kinds: dict[str, str]) -> str:
    """The number format of most weights, and how they are scaled."""
    endings = {name.rpartition(".")[2] for name in kinds}
    weights = Counter(kind for name, kind in kinds.items() if name.endswith(".weight"))
    blocks = Counter(kind for name, kind in kinds.items() if ".feed_forward." in name and name.endswith(".weight"))
    main = (blocks or weights).most_common(1)[0][0]
    if main in TYPES.values() and path.suffix.lower() == ".gguf":
        return f"GGUF {main}"
    if main not in _FORMATS:
        raise ZitError(
            f"{path.name} stores its weights as {main}, which cannot be read.",
            "Get its bf16, fp8, int8 or GGUF version.",
        )
    scaled = "comfy_quant" in endings or "weight_scale" in endings or "scale_weight" in endings
    return _FORMATS[main] + (" with scales" if scaled else "")


def _foreign(path: Path, names: Shapes) -> ZitError:
    if any(sign in name for name in names for sign in _ADAPTER_SIGNS):
        return ZitError(f"{path.name} is an adapter (LoRA), not a model.", "Give it with --lora.")
    for sign, kind in _OTHERS:
        if any(sign in name for name in names):
            return ZitError(f"{path.name} is not a Z-Image: it looks like {kind}.", "Give a Z-Image checkpoint.")
    return ZitError(f"{path.name} is not a Z-Image: its weights are unknown.", "Give a Z-Image checkpoint.")
