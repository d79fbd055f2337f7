"""Adapter files of every trainer, read into one form, and ours, written in ComfyUI's or diffusers' layout.

Which names are understood stands in ``adapter_names``, which forms of change in ``adapter_changes``. Nothing is applied
partly in silence: a key that is not understood, a number that is none and a missing half are errors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing
from zit_app.core.headers import read_header
from zit_app.model.adapter_changes import Change, Dora, LowRank
from zit_app.model.adapter_names import TEXT_ENCODER, Key, family, layout, modules_of, parse_key, shown, unsupported
from zit_app.model.adapter_parts import Parts, change_of, noted_scales

MOST_KEYS = 20_000  # a LoKr with DoRA on every layer of a Z-Image has about 3,000
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
ADVICE = "Give an adapter trained for Z-Image."


@dataclass(frozen=True)
class Adapter:
    """An adapter file in one form: changes by the names of diffusers' modules, biases apart.

    ``unmatched`` are keys that were not understood (only when read partly), ``text_encoder`` those that belong to the
    text encoder and are never used.
    """

    path: Path
    modules: dict[str, Change]
    metadata: dict[str, str]
    unmatched: tuple[str, ...] = ()
    text_encoder: tuple[str, ...] = ()
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    layout: str = ""  # whose way of writing

    @property
    def names(self) -> list[str]:
        """All modules that it changes."""
        return sorted(self.modules.keys() | self.biases.keys())


def read_adapter(path: Path, partly: bool = False) -> Adapter:
    """Read an adapter file of any known layout.

    Raises ZitError when it is no whole safetensors file, was made for another model, holds a kind of adapter that is
    not known, broken numbers or halves of pairs, and, unless ``partly``, when it holds any key that is not understood.
    """
    header = read_header(path)
    keys = [key for key in header if key != "__metadata__"]
    if len(keys) > MOST_KEYS:
        raise ZitError(f"{path} holds {len(keys)} tensors, more than any adapter of a Z-Image.", ADVICE)
    meanings = {key: parse_key(key) for key in keys}
    found = {key: meaning for key, meaning in meanings.items() if meaning is not None}
    text_encoder = sorted(key for key, meaning in meanings.items() if meaning is None and TEXT_ENCODER.match(key))
    unmatched = sorted(meanings.keys() - found.keys() - set(text_encoder))
    _check_keys(path, found, unmatched, text_encoder, partly)
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            modules: dict[str, Parts] = {}
            for name, key in found.items():
                parts = modules.setdefault(key.module, {})
                if key.part in parts:
                    raise ZitError(f"{path} holds {key.module} twice, such as {shown(name)}.", "Use another file.")
                parts[key.part] = _checked(path, name, key, file.get_tensor(name))
    except SafetensorError as error:
        raise ZitError(f"{path} is damaged: its header does not fit its content.", "Download it again.") from error
    changes: dict[str, Change] = {}
    biases: dict[str, torch.Tensor] = {}
    noted = noted_scales(path, metadata)
    for name, parts in modules.items():
        _add(path, name, change_of(path, name, parts, noted), parts, changes, biases)
    return Adapter(path, changes, metadata, tuple(unmatched), tuple(text_encoder), biases, layout(found))


def save_adapter(
    path: Path, tensors: Mapping[str, torch.Tensor], rank: int, alpha: float, metadata: Mapping[str, str]
) -> None:
    """Write ``lora_state`` in ComfyUI's layout, bf16, the scale as ``.alpha`` of every module; whole or not at all.

    ``metadata`` comes on top of format, rank and alpha.
    """
    out = {}
    for name, tensor in tensors.items():
        module, _, part = name.removesuffix(".weight").rpartition(".")
        if part == "lora_magnitude_vector":  # fp32: bf16 would change the length of every row by up to 0.4 %
            out[f"diffusion_model.{module}.dora_scale"] = tensor.to("cpu").float()[:, None].contiguous()
        else:
            out[f"diffusion_model.{name}"] = tensor.to("cpu", torch.bfloat16).contiguous()
        if part in ("lora_A", "lokr_w1", "lokr_w1_a"):
            out[f"diffusion_model.{module}.alpha"] = torch.tensor(float(alpha))
    fixed = {"format": "pt", "ss_network_module": "networks.lora", "ss_network_dim": f"{rank}"}
    fixed |= {"ss_network_alpha": f"{alpha:g}", "modelspec.sai_model_spec": "1.0.0"}
    fixed |= {"modelspec.architecture": "z-image-turbo/lora", "modelspec.implementation": "diffusers"}
    with replacing(path) as temporary:
        save_file(out, temporary, metadata={**fixed, **metadata})


def _check_keys(
    path: Path, found: Mapping[str, Key], unmatched: Sequence[str], text_encoder: Sequence[str], partly: bool
) -> None:
    """Refuse a file of which nothing, or not everything, is understood."""
    for key in unmatched:
        words = unsupported(key)
        if words:
            raise ZitError(f"{path} uses {words} ({shown(key)}).", "Use a LoRA, LoKr, LoHa or DoRA.")
    if not found:
        origin = family([*unmatched])
        if origin:
            raise ZitError(f"{path} was made for {origin}: no LoRA for Z-Image.", ADVICE)
        if text_encoder:
            raise ZitError(f"{path} changes the text encoder alone, which is never changed here.", ADVICE)
        if any(key.endswith((".weight", ".bias")) and "lora" not in key for key in unmatched):
            raise ZitError(f"{path} holds a model's own weights and no LoRA that a Z-Image could take.", ADVICE)
        raise ZitError(f"{path} holds no LoRA that a Z-Image could take.", ADVICE)
    if unmatched and not partly:
        raise ZitError(
            f"{path} holds {len(unmatched)} keys besides {len(found)} that this model has no place for, such as "
            f"{shown(unmatched[0])}.",
            "To use what fits, write a file of it with: zit lora convert FILE NEW --fitting MODEL.",
        )


def _checked(path: Path, name: str, key: Key, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the file, fp8 as bf16. Raises ZitError for whole numbers, NaN and empty tensors."""
    if key.part == "alpha":
        if tensor.numel() != 1 or not math.isfinite(tensor.float().item()) or tensor.item() == 0:
            raise ZitError(f"{path}: {shown(name)} is no usable alpha.", "Get the file again, or another one.")
        return tensor
    if tensor.dtype in FP8:
        tensor = tensor.bfloat16()
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ZitError(f"{path} stores {shown(name)} as {kind}, which no adapter is made of.", "Use another file.")
    if tensor.numel() == 0:
        raise ZitError(f"{path}: {shown(name)} is empty (rank 0).", "Use another file.")
    if not torch.isfinite(tensor).all():
        raise ZitError(f"{path} is broken: {shown(name)} holds NaN or infinity.", "Use an earlier checkpoint of it.")
    return tensor


def _add(
    path: Path,
    name: str,
    change: Change | None,
    parts: Parts,
    changes: dict[str, Change],
    biases: dict[str, torch.Tensor],
) -> None:
    """Put a change and a bias to the modules of diffusers that they belong to, a fused projection cut apart."""
    modules = modules_of(name)
    bias = parts.get("diff_b")
    if "up_bias" in parts and isinstance(change, LowRank):  # PEFT's lora_bias
        bias = change.scale * parts["up_bias"].float()
    count = change.shape[0] if change is not None else len(bias) if bias is not None else 0
    if count % len(modules):
        raise ZitError(f"{path}: {name} does not hold {len(modules)} modules of the same size.", "Use another file.")
    if len(modules) > 1 and isinstance(change, Dora) and not change.by_rows:
        raise ZitError(f"{path}: {name} is a DoRA over the inputs of a fused projection.", "Use one over the outputs.")
    height = count // len(modules)
    for number, module in enumerate(modules):
        rows = (number * height, (number + 1) * height)
        if change is not None:
            own = change.rows(*rows) if len(modules) > 1 else change
            if module in changes and not _same(own, changes[module]):
                raise ZitError(f"{path} changes {module} in two ways at once.", "Use another file.")
            changes[module] = changes.get(module, own)
        if bias is not None:
            biases[module] = bias[slice(*rows)]


def _same(one: Change, other: Change) -> bool:
    """Whether two changes are the same, as in files that hold a projection fused and cut apart."""
    if one.shape != other.shape or len(one.shape) != 2 or isinstance(one, Dora) or isinstance(other, Dora):
        return False
    probe = torch.randn(1, one.shape[1], generator=torch.Generator().manual_seed(0))
    return torch.allclose(one.apply(probe), other.apply(probe), rtol=1e-2, atol=1e-4)
