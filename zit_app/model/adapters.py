"""Trainable adapters on the main layers of the transformer, through peft.

    lora    W x becomes W x + s B A x, s = alpha / rank (rsLoRA: alpha / sqrt rank)
    dora    W' = m (W + s B A) / |W + s B A|, m the length of each row
    lokr    W x becomes W x + s (W1 ⊗ W2) x, W2 whole (full rank, s = 1) or a product

Adapter weights are fp32, the base stays frozen in whatever type it has.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from peft import LoKrConfig, LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer

from zit_app.core.errors import ZitError, did_you_mean

Targets = Literal["attention", "attention+feed_forward"]

TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0"),
    "attention+feed_forward": (
        "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
        "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
    ),
}  # fmt: skip
# AC-RF report, section 5.4: training these breaks the model. adaLN is called adaLN_modulation in every block.
FROZEN = ("norm", "adaln", "embedder", "pad_token", "final_layer")
ADAPTER_NAME = "default"
WHOLE = 1 << 20  # a rank at which peft makes a LoKr's large factor one whole matrix
SENTINEL = 1e10  # alpha of a full-rank LoKr in files: "no scale" (LyCORIS)
# Drawn from the seed; the other half of each kind starts from zero, so that training starts from the frozen model.
_RANDOM = ("lora_A", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
_PARTS = ("lora_A", "lora_B", "lora_magnitude_vector", "lokr_w1", "lokr_w1_a", "lokr_w1_b", *_RANDOM[2:])
_OWN = re.compile(rf"\.({'|'.join(_PARTS)})\.{ADAPTER_NAME}(?=$|\.weight$)")


def target_modules(
    transformer: ZImageTransformer2DModel,
    targets: str = "attention+feed_forward",
    extra: str = "",
    blocks: Iterable[int] | None = None,
) -> list[str]:
    """The linear layers that are trained: 7 in each of the main ``blocks`` (None = all: 210 on the real model), and
    those whose names end in one of ``extra`` (with commas between them).

    Raises ZitError for a part that must stay frozen and for a name that no layer has.
    """
    chosen = range(len(transformer.layers)) if blocks is None else blocks
    names = [f"layers.{i}.{tail}" for i in chosen for tail in TARGETS[targets]]
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    for wanted in filter(None, (one.strip() for one in extra.split(","))):
        found = [name for name in linear if name == wanted or name.endswith(f".{wanted}")]
        frozen = [name for name in [wanted, *found] if any(part in name.lower() for part in FROZEN)]
        if frozen:
            raise ZitError(
                f"lora.extra_targets: {frozen[0]} must stay frozen, training it breaks the model.",
                "Take it out of extra_targets.",
            )
        if not found:
            raise ZitError(f"lora.extra_targets: no linear layer is called {wanted!r}.", did_you_mean(wanted, linear))
        names += [name for name in found if name not in names]
    return names


def attach_lora(
    transformer: ZImageTransformer2DModel,
    rank: int,
    alpha: float,
    targets: str = "attention+feed_forward",
    seed: int = 0,
    *,
    kind: str = "lora",
    extra_targets: str = "",
    blocks: Iterable[int] | None = None,
    rslora: bool = False,
    factor: int = 8,
    full_rank: bool = True,
) -> list[str]:
    """Add a fresh adapter and make it all that is trainable; returns the modules that took it.

    Its random half starts from Kaiming's uniform (a = sqrt 5, as in peft) out of ``seed`` alone, the other from zero.
    Raises ZitError for layers that cannot be trained and a LoKr factor that does not fit them.
    """
    names = check_targets(transformer, targets, extra_targets, kind, factor, blocks)
    transformer.requires_grad_(False)
    config: Any  # peft types alpha as int and uses it as a factor
    if kind == "lokr":
        large, scaled = (WHOLE, WHOLE) if full_rank else (rank, alpha)
        config = LoKrConfig(r=large, decompose_factor=factor, target_modules=names, init_weights=True)
        config.alpha = scaled
    else:
        config = LoraConfig(r=rank, target_modules=names, use_dora=kind == "dora", use_rslora=rslora)
        config.lora_alpha = alpha
    transformer.add_adapter(config, ADAPTER_NAME)
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, weight in adapter_weights(transformer).items():
        weight.data = weight.data.float()
        if name.removesuffix(".weight").rsplit(".", 1)[1] in _RANDOM:
            fresh = torch.empty(weight.shape)
            torch.nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
            weight.data.copy_(fresh)
    return [name for name, module in transformer.named_modules() if isinstance(module, BaseTunerLayer)]


def lora_state(transformer: ZImageTransformer2DModel) -> dict[str, torch.Tensor]:
    """The adapter's own weights, ``layers.0.attention.to_q.lora_A.weight`` → fp32 tensor (detached, not copied)."""
    return {name: weight.detach() for name, weight in adapter_weights(transformer).items()}


def load_lora_state(transformer: ZImageTransformer2DModel, state: Mapping[str, torch.Tensor]) -> None:
    """Put ``lora_state`` back into an attached adapter of the same shape. Raises ZitError when it does not fit."""
    weights = adapter_weights(transformer)
    if {name: weight.shape for name, weight in weights.items()} != {k: v.shape for k, v in state.items()}:
        raise ZitError(
            "The saved LoRA weights do not fit this model, rank or set of layers.",
            "Resume with the model and the settings that the run was started with.",
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state[name])


def file_alpha(kind: str, rank: int, alpha: float, rslora: bool, full_rank: bool) -> float:
    """The ``.alpha`` by which a file says the scale: readers take alpha / rank, and no scale for a whole LoKr."""
    if kind == "lokr":
        return SENTINEL if full_rank else alpha
    return alpha * rank**0.5 if rslora else alpha


@contextmanager
def adapter_disabled(transformer: ZImageTransformer2DModel) -> Iterator[None]:
    """The frozen model, for as long as the block lasts."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def check_targets(
    transformer: ZImageTransformer2DModel,
    targets: str,
    extra_targets: str,
    kind: str,
    factor: int,
    blocks: Iterable[int] | None = None,
) -> list[str]:
    """The modules that an adapter of this kind would take. Raises ZitError as ``attach_lora``; needs no weights."""
    names = target_modules(transformer, targets, extra_targets, blocks)
    if kind == "lokr":
        _check_factor(transformer, names, factor)
    return names


def _check_factor(transformer: ZImageTransformer2DModel, names: list[str], factor: int) -> None:
    """peft takes the largest divisor of a width up to the factor; one that has none would be learnt in full."""
    shapes = [transformer.get_parameter(f"{name}.weight").shape for name in names]
    widths = {width for shape in shapes for width in shape}
    for width in sorted(widths):
        if factor > width or all(width % divisor for divisor in range(2, factor + 1)):
            raise ZitError(
                f"lora.lokr_factor = {factor} does not fit a layer that is {width} wide.",
                "Choose a smaller factor, or one that shares a divisor with all widths, such as 8.",
            )


def adapter_weights(transformer: ZImageTransformer2DModel) -> dict[str, torch.nn.Parameter]:
    """Adapter parameters in model order, the adapter's name cut out of theirs."""
    found = ((_OWN.search(name), name, weight) for name, weight in transformer.named_parameters())
    return {_OWN.sub(rf".{match[1]}", name): weight for match, name, weight in found if match}
