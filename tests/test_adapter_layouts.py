"""Adapter files of every layout: what each does to the model equals weights merged by hand, or it is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from tests.adapter_zoo import (
    AB,
    ATTENTION,
    BARE,
    COMFY,
    DIFFUSERS,
    DOWN_UP,
    FEED_FORWARD,
    KOHYA,
    LYCORIS,
    MAIN,
    MODULATION,
    NORMS,
    OUTER,
    PEFT,
    REFINERS,
    Zoo,
    bias_differences,
    differences,
    dora,
    dotted,
    flat,
    fused_lokr,
    fused_lora,
    loha,
    lokr,
    lora,
    lora_changes,
    mixed_ranks,
    original,
    plain,
)
from zit_app.core.errors import ZitError
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.forward import predict_velocity

VARIANTS: dict[str, Callable[[Zoo], None]] = {}


def variant(name: str, build: Callable[[Zoo], None]) -> None:
    assert name not in VARIANTS
    VARIANTS[name] = build


def noting(zoo: Zoo, **noted: object) -> None:
    """diffusers' note of alpha in the metadata."""
    zoo.metadata["lora_adapter_metadata"] = json.dumps({f"transformer.{key}": value for key, value in noted.items()})


def with_text_encoder(zoo: Zoo, prefix: str) -> None:
    lora(zoo, MAIN, COMFY, alpha=2.0)
    zoo.tensors |= {f"{prefix}.lora_A.weight": torch.ones(2, 8), f"{prefix}.lora_B.weight": torch.ones(8, 2)}


def diffusers_metadata(zoo: Zoo, scale: float, **noted: object) -> None:
    lora(zoo, MAIN, DIFFUSERS, scale=scale)
    noting(zoo, r=4, **noted)


def alpha_pattern(zoo: Zoo) -> None:
    lora(zoo, ATTENTION, DIFFUSERS, scale=2.0)
    lora(zoo, FEED_FORWARD, DIFFUSERS, scale=0.5)
    patterns = {"feed_forward.w1": 2, "feed_forward.w2": 2, "feed_forward.w3": 2}
    noting(zoo, r=4, lora_alpha=8, alpha_pattern=patterns)


def peft_folder(zoo: Zoo, scale: float, **config: object) -> None:
    lora(zoo, MAIN, PEFT, scale=scale)
    zoo.config = {"peft_type": "LORA", "r": 4, **config}


def lora_bias(zoo: Zoo) -> None:
    lora(zoo, OUTER, PEFT, scale=0.5)
    for name in OUTER:
        zoo.tensors[f"{PEFT(name)}.lora_B.bias"] = bias = zoo.random(len(zoo.weights[f"{name}.bias"]))
        zoo.after[f"{name}.bias"] = zoo.weights[f"{name}.bias"] + 0.5 * bias
    zoo.config = {"peft_type": "LORA", "r": 4, "lora_alpha": 2}


def as_convolutions(zoo: Zoo) -> None:
    lora(zoo, MAIN, KOHYA, DOWN_UP, alpha=2.0)
    zoo.tensors = {k: v[:, :, None, None] if v.ndim == 2 else v for k, v in zoo.tensors.items()}


def odd_alphas(zoo: Zoo) -> None:
    lora(zoo, MAIN, KOHYA, DOWN_UP, alpha=2.0)
    kinds = [torch.tensor([2.0]), torch.tensor(2), torch.tensor(2.0, dtype=torch.bfloat16)]
    alphas = [key for key in zoo.tensors if key.endswith(".alpha")]
    zoo.tensors |= {key: kinds[i % 3].clone() for i, key in enumerate(alphas)}


def fused_and_split(zoo: Zoo) -> None:
    """Some trainers write the same projection both ways; it counts once."""
    fused_lora(zoo, KOHYA, DOWN_UP, alpha=2.0)
    for block in ("layers.0", "layers.1", "noise_refiner.0"):
        down = zoo.tensors[f"{KOHYA(block)}_attention_qkv.lora_down.weight"]
        ups = zoo.tensors[f"{KOHYA(block)}_attention_qkv.lora_up.weight"].chunk(3)
        for letter, up in zip("qkv", ups, strict=True):
            stem = f"{KOHYA(block)}_attention_to_{letter}"
            zoo.tensors |= {f"{stem}.lora_down.weight": down.clone(), f"{stem}.lora_up.weight": up.clone()}
            zoo.tensors[f"{stem}.alpha"] = torch.tensor(2.0)


def fused_dora(zoo: Zoo, dim: int) -> None:
    rows = 64
    down, up = zoo.random(4, 64), zoo.random(3 * rows, 4)
    names = [f"layers.0.attention.to_{letter}" for letter in "qkv"]
    stem = COMFY("layers.0.attention.qkv")
    weight = torch.cat([zoo.weight(name) for name in names])
    changed = weight + up @ down
    norm = changed.norm(dim=dim, keepdim=True)
    magnitude = norm * (1 + zoo.random(*norm.shape, scale=0.1))
    zoo.tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up, f"{stem}.dora_scale": magnitude}
    for name, own in zip(names, (magnitude * changed / norm).chunk(3), strict=True):
        zoo.after[f"{name}.weight"] = own


def fused_loha(zoo: Zoo) -> None:
    parts = {f"hada_w{i}_{side}": zoo.random(*shape) for i in (1, 2) for side, shape in
             (("a", (192, 3)), ("b", (3, 64)))}  # fmt: skip
    zoo.tensors = {f"lora_unet_layers_1_attention_qkv.{part}": tensor for part, tensor in parts.items()}
    change = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    for letter, own in zip("qkv", change.chunk(3), strict=True):
        zoo.add(f"layers.1.attention.to_{letter}", own)


def fused_difference(zoo: Zoo) -> None:
    zoo.tensors["diffusion_model.layers.0.attention.qkv.diff"] = change = zoo.random(192, 64, scale=0.1)
    for letter, own in zip("qkv", change.chunk(3), strict=True):
        zoo.add(f"layers.0.attention.to_{letter}", own)


def mixed_factors(zoo: Zoo) -> None:
    for i, name in enumerate(MAIN):
        plain(zoo, lokr(zoo, [name], COMFY, factor=[4, 8, -1][i % 3]))


def everything(zoo: Zoo) -> None:
    lora(zoo, ATTENTION[:4], COMFY, alpha=2.0)
    plain(zoo, lokr(zoo, FEED_FORWARD[:3], COMFY, factor=4))
    plain(zoo, loha(zoo, FEED_FORWARD[3:], KOHYA))
    dora(zoo, lora_changes(zoo, ATTENTION[4:], KOHYA, DOWN_UP, 2.0), KOHYA, ".dora_scale")
    differences(zoo, NORMS, COMFY)


def adding(**tensors: torch.Tensor) -> Callable[[Zoo], None]:
    """A LoRA and something else on one layer."""

    def build(zoo: Zoo) -> None:
        lora(zoo, MAIN, COMFY, alpha=2.0)
        zoo.tensors |= {f"diffusion_model.layers.0.attention.to_q.{k}": v for k, v in tensors.items()}

    return build


def refusing(reason: str, build: Callable[[Zoo], None]) -> Callable[[Zoo], None]:
    def refused(zoo: Zoo) -> None:
        build(zoo)
        zoo.refused = reason

    return refused


def missing_layer(zoo: Zoo) -> None:
    lora(zoo, MAIN, COMFY)
    zoo.tensors |= {k.replace("layers.1", "layers.7"): v.clone() for k, v in zoo.tensors.items() if "layers.1" in k}


for label, naming in {
    "comfyui": COMFY, "all-in-one": dotted("model.diffusion_model."), "diffusers": DIFFUSERS, "peft": PEFT,
    "bare": BARE, "diffsynth pipe": dotted("pipe.dit."), "kohya": KOHYA, "onetrainer": flat("lora_transformer_"),
    "lycoris": LYCORIS,
}.items():  # fmt: skip
    variant(f"{label} A/B", lambda zoo, n=naming: lora(zoo, MAIN, n))
    variant(f"{label} A/B alpha", lambda zoo, n=naming: lora(zoo, MAIN, n, alpha=2.0))
    variant(f"{label} down/up alpha", lambda zoo, n=naming: lora(zoo, MAIN, n, DOWN_UP, alpha=3.0))
    variant(f"{label} fused", lambda zoo, n=naming: fused_lora(zoo, n, AB))
    variant(f"{label} fused alpha", lambda zoo, n=naming: fused_lora(zoo, n, DOWN_UP, alpha=1.0))
variant("diffsynth", lambda zoo: lora(zoo, MAIN, BARE, (".lora_A.default.weight", ".lora_B.default.weight")))
variant("dotted halves", lambda zoo: lora(zoo, MAIN, KOHYA, (".lora.down.weight", ".lora.up.weight"), alpha=2.0))
variant("mixed ranks and alphas, kohya", lambda zoo: mixed_ranks(zoo, KOHYA, DOWN_UP))
variant("mixed ranks and alphas, comfyui", lambda zoo: mixed_ranks(zoo, COMFY, AB))
variant("modulation", lambda zoo: lora(zoo, MAIN + MODULATION, KOHYA, DOWN_UP, alpha=2.0))
variant("refiners", lambda zoo: lora(zoo, MAIN + REFINERS, KOHYA, DOWN_UP, alpha=2.0))
variant("every linear", lambda zoo: lora(zoo, MAIN + MODULATION + REFINERS + OUTER, COMFY, alpha=2.0))
variant("every linear, flattened", lambda zoo: lora(zoo, MAIN + OUTER, KOHYA, DOWN_UP, alpha=2.0))
variant("original names", lambda zoo: lora(zoo, OUTER + ATTENTION[3:4], original(COMFY), alpha=2.0))
variant("original names, flattened", lambda zoo: lora(zoo, OUTER + ATTENTION[3:4], original(KOHYA), DOWN_UP))
variant("rank 1", lambda zoo: lora(zoo, MAIN, COMFY, alpha=1.0, rank=1))
variant("rank above the width", lambda zoo: lora(zoo, MAIN, COMFY, alpha=4.0, rank=96))
variant("bf16", lambda zoo: lora(zoo, MAIN, COMFY, alpha=2.0, dtype=torch.bfloat16))
variant("fp16", lambda zoo: lora(zoo, MAIN, COMFY, alpha=2.0, dtype=torch.float16))
variant("fp64", lambda zoo: lora(zoo, MAIN, COMFY, alpha=2.0, dtype=torch.float64))
variant("fp8 e4m3", lambda zoo: lora(zoo, MAIN, COMFY, alpha=2.0, dtype=torch.float8_e4m3fn))
variant("fp8 e5m2", lambda zoo: lora(zoo, MAIN, KOHYA, DOWN_UP, alpha=2.0, dtype=torch.float8_e5m2))
variant("alphas of odd types", odd_alphas)
variant("1 x 1 convolutions", as_convolutions)
variant("diffusers, alpha noted", lambda zoo: diffusers_metadata(zoo, 2.0, lora_alpha=8))
variant("diffusers, rank-stabilised", lambda zoo: diffusers_metadata(zoo, 4.0, lora_alpha=8, use_rslora=True))
variant("diffusers, alpha pattern", alpha_pattern)
variant("peft folder", lambda zoo: peft_folder(zoo, 2.0, lora_alpha=8))
variant("peft folder, rank-stabilised", lambda zoo: peft_folder(zoo, 4.0, lora_alpha=8, use_rslora=True))
variant("peft folder, biases", lora_bias)
variant("with text encoder, kohya", lambda zoo: with_text_encoder(zoo, "lora_te_model_layers_0_self_attn_q_proj"))
variant("with text encoder, diffusers", lambda zoo: with_text_encoder(zoo, "text_encoder.layers.0.mlp.up_proj"))
variant("fused and split", fused_and_split)

variant("lokr SDA", lambda zoo: plain(zoo, lokr(zoo, MAIN + MODULATION, COMFY)))
variant("lokr closest factors", lambda zoo: plain(zoo, lokr(zoo, MAIN, COMFY, factor=-1, alpha=1.0)))
variant("lokr w2 a product", lambda zoo: plain(zoo, lokr(zoo, MAIN, COMFY, 4, rank2=2, alpha=4.0, scale=2.0)))
variant("lokr w1 a product", lambda zoo: plain(zoo, lokr(zoo, MAIN, COMFY, 8, rank1=2, alpha=1.0, scale=0.5)))
variant("lokr both products", lambda zoo: plain(zoo, lokr(zoo, MAIN, LYCORIS, -1, 2, 2, alpha=1.0, scale=0.5)))
variant("lokr many ranks", lambda zoo: plain(zoo, lokr(zoo, MAIN, LYCORIS, -1, 0, 17, alpha=17.0)))
variant("lokr mixed factors", mixed_factors)
variant("lokr lycoris", lambda zoo: plain(zoo, lokr(zoo, MAIN, LYCORIS, 4, alpha=1.0)))
variant("lokr kohya", lambda zoo: plain(zoo, lokr(zoo, MAIN, KOHYA, 4, alpha=1.0)))
variant("lokr diffusers", lambda zoo: plain(zoo, lokr(zoo, MAIN, DIFFUSERS, 4, alpha=None)))
variant("lokr diffusers alpha", lambda zoo: plain(zoo, lokr(zoo, MAIN, DIFFUSERS, 4, rank2=2, alpha=2.0)))
variant("lokr bare", lambda zoo: plain(zoo, lokr(zoo, MAIN, BARE, 4, alpha=None)))
variant("lokr fused", lambda zoo: fused_lokr(zoo, COMFY, 12))
variant("lokr fused, kohya", lambda zoo: fused_lokr(zoo, KOHYA, 24))
variant("lokr fused through blocks", lambda zoo: fused_lokr(zoo, COMFY, 8))
variant("lokr fused, a product", lambda zoo: fused_lokr(zoo, COMFY, 8, rank2=2, alpha=4.0))
variant("lokr fused, many ranks", lambda zoo: fused_lokr(zoo, COMFY, 4, rank2=34, alpha=34.0))
variant("lokr dora", lambda zoo: dora(zoo, lokr(zoo, MAIN, LYCORIS, 4), LYCORIS, ".dora_scale"))
variant("lokr dora by columns", lambda zoo: dora(zoo, lokr(zoo, MAIN, KOHYA, 4), KOHYA, ".dora_scale", 0))

variant("loha lycoris", lambda zoo: plain(zoo, loha(zoo, MAIN, LYCORIS)))
variant("loha kohya", lambda zoo: plain(zoo, loha(zoo, MAIN, KOHYA)))
variant("loha comfyui, no alpha", lambda zoo: plain(zoo, loha(zoo, MAIN, COMFY, alpha=None)))
variant("loha of high rank", lambda zoo: plain(zoo, loha(zoo, MAIN, COMFY, rank=13, alpha=4.0)))
variant("loha fused", fused_loha)
variant("loha dora", lambda zoo: dora(zoo, loha(zoo, MAIN, LYCORIS), LYCORIS, ".dora_scale"))


def dora_of(
    naming: Callable[[str], str], halves: tuple[str, str], key: str, dim: int = 1, alpha: float | None = 2.0
) -> Callable[[Zoo], None]:
    return lambda zoo: dora(zoo, lora_changes(zoo, MAIN + OUTER, naming, halves, alpha), naming, key, dim)


variant("dora kohya", dora_of(KOHYA, DOWN_UP, ".dora_scale"))
variant("dora kohya by columns", dora_of(KOHYA, DOWN_UP, ".dora_scale", 0))
variant("dora comfyui", dora_of(COMFY, AB, ".dora_scale"))
variant("dora lycoris by columns", dora_of(LYCORIS, DOWN_UP, ".dora_scale", 0))
variant("dora diffusers", dora_of(DIFFUSERS, AB, ".lora_magnitude_vector", alpha=None))
variant("dora peft", dora_of(PEFT, AB, ".lora_magnitude_vector.weight", alpha=None))
variant("dora peft, named", dora_of(BARE, AB, ".lora_magnitude_vector.default.weight", alpha=None))
variant("dora fused", lambda zoo: fused_dora(zoo, 1))

variant("differences", lambda zoo: differences(zoo, MAIN, COMFY))
variant("differences, kohya", lambda zoo: differences(zoo, MAIN + OUTER, KOHYA))
variant("differences, fused", fused_difference)
variant("norms", lambda zoo: differences(zoo, NORMS, COMFY))
variant("norms, original names", lambda zoo: differences(zoo, NORMS, original(COMFY)))
variant("norms, lycoris", lambda zoo: differences(zoo, NORMS, LYCORIS, "w_norm"))
variant("biases", lambda zoo: bias_differences(zoo, OUTER + MODULATION, COMFY))
variant("every kind in one file", everything)

two = torch.zeros(2)
variant("refused: dora over inputs, fused", refusing("over the inputs of a fused", lambda zoo: fused_dora(zoo, 0)))
variant("refused: OFT", refusing("OFT", adding(oft_blocks=two)))
variant("refused: GLoRA", refusing("GLoRA", adding(**{"a1.weight": two})))
variant("refused: IA3", refusing(r"\(IA\)³", adding(on_input=two)))
variant("refused: Tucker", refusing("Tucker", adding(**{"lora_mid.weight": two})))
variant("refused: set_weight", refusing("not supported", adding(set_weight=two)))
variant("refused: two kinds on one layer", refusing("several kinds at once", adding(diff=torch.zeros(64, 64))))
variant("refused: other layers", refusing("7 of the 21 modules", missing_layer))
variant("refused: unknown key", refusing("no place for", adding(mystery=two)))


@pytest.fixture(scope="module")
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    """Weights with biases and norms that are not the identity, so that a change of them shows."""
    model = copy.deepcopy(tiny_pipeline.transformer)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def velocity(transformer: ZImageTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    caps = [torch.randn(20, 32, generator=generator) for _ in range(2)]
    x = torch.randn(2, 16, 8, 8, generator=generator)
    with torch.no_grad():
        return predict_velocity(transformer, x, torch.tensor([0.9, 0.4]), caps)


@pytest.fixture(scope="module")
def bare(transformer: ZImageTransformer2DModel) -> torch.Tensor:
    return velocity(transformer)


def test_there_are_enough() -> None:
    assert len(VARIANTS) >= 60


@pytest.mark.parametrize("name", VARIANTS)
def test_the_change_is_that_of_the_formula(
    transformer: ZImageTransformer2DModel, bare: torch.Tensor, tmp_path: Path, name: str
) -> None:
    weights = {key: value.clone() for key, value in transformer.state_dict().items()}
    zoo = Zoo(weights, seed=len(name))
    VARIANTS[name](zoo)
    path = zoo.write(tmp_path)
    if zoo.refused:
        with pytest.raises(ZitError, match=zoo.refused) as caught:
            apply_adapters(transformer, [(read_adapter(path), 1.0, 1, 0)])
        assert "\n" not in str(caught.value) and str(path) in caught.value.what
    else:
        stack = apply_adapters(transformer, [(read_adapter(path), 1.0, 1, 0)])
        got = velocity(transformer)
        stack.remove()
        merged = copy.deepcopy(transformer)
        merged.load_state_dict(weights | zoo.after)
        expected = velocity(merged)
        assert (expected - bare).abs().max() > 1e-2  # it does something
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, weights[key]) for key, value in transformer.state_dict().items())
    torch.testing.assert_close(velocity(transformer), bare, atol=0, rtol=0)
