"""Linear layers kept in 8 or 4 bit: the blocks' attention and feed forward alone; everything else stays as it is.

    int8   one scale a row, w = q * scale, |q| <= 127                       1.00 byte a weight
    fp8    the same with float8 e4m3, |q| <= 448                            1.00
    nf4    bitsandbytes' normal float, one scale for 64 weights             0.56
    int8-fast, fp8-fast       kept as int8 and fp8, products on the tensor cores: inputs are rounded, too
    int8-quanto, fp8-quanto   the storage formats of optimum-quanto

Products are computed in the type of the input, from weights that are unpacked for the moment of their use; so gradients
flow through them as through the unpacked weights, and adapters on top are exact relative to them. The fast formats
round every input row to 8 bit with a scale of its own: one scale for all rows turns Z-Image's pictures to noise, since
few rows are far larger than the others. Where gradients may be asked for they compute as the others do. adaLN,
embedders and the output layer stay in full: quantizing them ruins pictures for 2 % of the size (Z-Image facts, "The
model").

N outputs, K inputs of a linear layer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing

STORED = ("int8", "fp8", "nf4", "int8-fast", "fp8-fast", "int8-quanto", "fp8-quanto")
BLOCK_LINEARS = (
    "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_FULL = {"fp32": torch.float32, "bf16": torch.bfloat16}
_INT8, _FP8 = 127.0, 448.0  # largest values
_NF4_BLOCK = 64
_FEWEST_ROWS, _STEP = 32, 16  # what tensor cores multiply: so many rows at least, sides in such steps
_FAST_SINCE = {"int8-fast": (8, 0), "fp8-fast": (8, 9)}  # generations of cards


@dataclass(frozen=True)
class Formats:
    """Number formats of a model: what its parts are computed in, and how blocks are stored ("" = in full)."""

    dtype: torch.dtype
    stored: str
    text_dtype: torch.dtype
    text_stored: str

    @property
    def name(self) -> str:
        """The transformer's, as it stands in a recipe."""
        return self.stored or ("bf16" if self.dtype == torch.bfloat16 else "fp32")


def formats(precision: str, text_precision: str, device: torch.device, full: torch.dtype) -> Formats:
    """What the settings mean on a device that computes in ``full``. Raises ZitError for what it cannot do."""
    dtype = _FULL.get(precision, full)
    for kind in (precision, text_precision):
        check_precision(kind, device)
    stored, text_stored = (kind if kind in STORED else "" for kind in (precision, text_precision))
    return Formats(dtype, stored, _FULL.get(text_precision, dtype), text_stored)


class StoredLinear(torch.nn.Linear):
    """A frozen linear layer whose weight lies packed in buffers; ``weight`` unpacks it."""

    packed: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: torch.nn.Linear, kind: str) -> None:
        torch.nn.Module.__init__(self)  # not Linear's: it would make a weight
        self.in_features, self.out_features, self.kind = linear.in_features, linear.out_features, kept_as(kind)
        self.fast = kind != self.kind and not (linear.in_features % _STEP or linear.out_features % _STEP)
        self.compute_dtype = linear.weight.dtype
        self.register_buffer("packed", torch.empty(self._packed_shape(), device="meta", dtype=_PACKED[self.kind]))
        self.register_buffer("scale", torch.empty(self._scale_shape(), device="meta"))
        self.register_parameter("bias", linear.bias)

    @classmethod
    @torch.no_grad()
    def of(cls, linear: torch.nn.Linear, kind: str, device: torch.device) -> "StoredLinear":
        """Pack a linear layer on ``device``."""
        new, w_NK = cls(linear, kind), linear.weight.to(device)
        if new.kind == "nf4":
            import bitsandbytes.functional as bnb

            packed, state = bnb.quantize_4bit(w_NK.contiguous(), blocksize=_NF4_BLOCK, quant_type="nf4")
            new.packed, new.scale = packed.view(new._packed_shape()), state.absmax.float()
        else:
            q_NK, new.scale = rounded_rows(w_NK, new.kind)
            # fp8 lies in bytes: `.to(bfloat16)` on the model would turn buffers of a floating type
            new.packed = q_NK if new.kind == "int8" else q_NK.view(torch.uint8)
        return new

    def unpacked(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``(q, s)`` with ``w = q * s``: q (N, K) in ``dtype``, which holds it exactly, s (1, N) or None for one."""
        if self.kind == "nf4":
            import bitsandbytes.functional as bnb

            shape = torch.Size((self.out_features, self.in_features))
            state = bnb.QuantState(self.scale, shape, blocksize=_NF4_BLOCK, quant_type="nf4", dtype=dtype)
            return bnb.dequantize_4bit(self.packed.view(-1, 1), state), None
        stored = self.packed if self.kind == "int8" else self.packed.view(torch.float8_e4m3fn)
        return stored.to(dtype), self.scale.view(1, -1)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """``x w^T`` in the type of ``x``; scales are applied to the result, where they cost least and round least."""
        q_NK, s_1N = self.unpacked(x.dtype)
        y = F.linear(x, q_NK)
        return y if s_1N is None else y.mul_(s_1N).to(x.dtype)  # in place: computed in fp32, kept in no second tensor

    def fast_product(self, x: torch.Tensor) -> torch.Tensor:
        """The same with the rows of ``x`` rounded to 8 bit, on tensor cores where the card has them."""
        q_MK, s_M1 = rounded_rows(x.reshape(-1, self.in_features), self.kind)
        s_1N = self.scale.view(1, -1)
        if self.kind == "int8":
            y_MN = (torch._int_mm(q_MK, self.packed.t()) * s_M1).mul_(s_1N).to(x.dtype)
        else:
            w_KN = self.packed.view(torch.float8_e4m3fn).t()
            y_MN = torch._scaled_mm(q_MK, w_KN, scale_a=s_M1, scale_b=s_1N, out_dtype=torch.bfloat16).to(x.dtype)
        return y_MN.view(*x.shape[:-1], self.out_features)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight that the packed one stands for."""
        q_NK, s_1N = self.unpacked(torch.float32)
        return (q_NK if s_1N is None else q_NK * s_1N.view(-1, 1)).to(self.compute_dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x w^T + bias`` in the type of ``x``."""
        if self.fast and not torch.is_grad_enabled() and x.numel() >= _FEWEST_ROWS * self.in_features:
            y = self.fast_product(x)
        else:
            learning = torch.is_grad_enabled() and x.requires_grad
            y = _Product.apply(x, self) if learning else self.product(x)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """What torch prints about the layer."""
        return f"{self.in_features}, {self.out_features}, {self.kind}"

    def _packed_shape(self) -> tuple[int, ...]:
        return (self.out_features, self.in_features // 2 if self.kind == "nf4" else self.in_features)

    def _scale_shape(self) -> tuple[int, ...]:
        blocks = -(-self.out_features * self.in_features // _NF4_BLOCK)
        return (blocks,) if self.kind == "nf4" else (self.out_features, 1)


def kept_as(kind: str) -> str:
    """The format in which a fast one is kept: its weights are the same."""
    return kind.removesuffix("-fast")


def rounded_rows(x_MK: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """``(q, s)`` with ``x ≈ q * s``: q (M, K) in int8 or float8 e4m3, s (M, 1) in fp32, one for each row."""
    largest = _INT8 if kind == "int8" else _FP8
    s_M1 = (x_MK.abs().amax(1, keepdim=True).float() / largest).clamp_min(torch.finfo(torch.float32).tiny)
    q_MK = x_MK.float() / s_M1
    return q_MK.round_().to(torch.int8) if kind == "int8" else q_MK.to(torch.float8_e4m3fn), s_M1


_PACKED = {"int8": torch.int8, "fp8": torch.uint8, "nf4": torch.uint8}


class _Product(torch.autograd.Function):
    """``x w^T`` that keeps the packed weight for the backward pass, not the unpacked one of twice the size."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: StoredLinear) -> torch.Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        q_NK, s_1N = ctx.layer.unpacked(grad.dtype)
        return (grad if s_1N is None else (grad * s_1N).to(grad.dtype)) @ q_NK, None


def block_linears(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The layers that are stored in fewer bits, by name, of a transformer or a text encoder."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(BLOCK_LINEARS)
    }


def check_precision(kind: str, device: torch.device) -> None:
    """Raises ZitError for a format that this machine cannot compute with."""
    if kind in STORED and device.type not in ("cpu", "cuda"):
        raise ZitError(f"{kind} needs a CUDA card or the processor.", "Choose --precision bf16.")
    if kind == "fp8-quanto" and device.type == "cuda":  # quanto compiles its kernel with nvcc at the first product
        raise ZitError("quanto's fp8 needs a compiler on a graphics card.", "Choose --precision fp8 instead.")
    if kind in _FAST_SINCE and device.type == "cuda":
        known = torch.version.hip is None and torch.cuda.get_device_capability(device) >= _FAST_SINCE[kind]
        if not known:
            raise ZitError(f"This card has no tensor cores for {kind}.", f"Choose --precision {kept_as(kind)} instead.")


def store_blocks(
    model: torch.nn.Module, kind: str, device: torch.device, place: torch.device | None = None
) -> None:
    """Pack the block linears of a frozen model in place, on ``device``; it then lies on ``place``, else there."""
    layers = block_linears(model)
    if kind.endswith("-quanto"):
        from optimum.quanto import freeze, qfloat8, qint8, quantize

        model.to(place or device)
        quantize(model, weights=qint8 if kind == "int8-quanto" else qfloat8, include=list(layers))
        freeze(model)
        return
    for name, layer in layers.items():
        _replace(model, name, StoredLinear.of(layer, kind, device).to(place or device))


def save_stored(path: Path, model: torch.nn.Module, kind: str) -> None:
    """Write a packed model as one safetensors file, whole or not at all."""
    metadata = {"stored": kind}
    if kind.endswith("-quanto"):
        from optimum.quanto import quantization_map

        metadata["quantization_map"] = json.dumps(quantization_map(model))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata)


def load_stored(path: Path, model: torch.nn.Module, kind: str, device: torch.device) -> None:
    """Fill a model that was built on the meta device from ``save_stored``'s file."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if kind.endswith("-quanto"):
        from optimum.quanto import requantize

        requantize(model, state, json.loads(metadata["quantization_map"]), device)
        return
    for name, layer in block_linears(model).items():
        _replace(model, name, StoredLinear(layer, kind))
    model.load_state_dict(state, assign=True)


def _replace(model: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
