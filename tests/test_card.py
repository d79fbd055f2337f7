"""What only a graphics card can show: every format, stack and layout there, and the full-size table.

`pytest -q -s tests/test_card.py` on a machine with a card prints the table. Without one everything here is skipped,
with less than 20 GiB free the table.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from PIL import Image

from tests.test_adapters import random_lora
from tests.tiny import make_tiny_model, make_tiny_omni
from zit_app.core import full_model, memory, sizes
from zit_app.core.errors import ZitError
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.memory import Numbers, Request
from zit_app.engine.generate import generate
from zit_app.engine.warm import Warm
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import attach_lora
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer
from zit_app.model.precision import STORED, check_precision, kept_as, store_blocks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card here: nothing of it is shown")

CPU, CARD = torch.device("cpu"), torch.device("cuda")
WIDE = dict(dim=192, n_heads=4, n_kv_heads=4, n_layers=6, axes_dims=[16, 16, 16])
FREE = 20 << 30  # bytes for the table: the full model in bf16, and what it computes with
ERRORS = {"int8": 0.06, "fp8": 0.15, "nf4": 0.4, "int8-fast": 0.1, "fp8-fast": 0.25, "int8-quanto": 0.06}


def kinds() -> list[str]:
    """The formats that this card computes with."""
    found = []
    for kind in STORED if torch.cuda.is_available() else ():
        try:
            check_precision(kind, CARD)
        except ZitError:
            continue
        found.append(kind)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("wide"), **WIDE)


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("lora") / "one.safetensors"
    save_adapter(file, random_lora(load_transformer(model, CPU, torch.float32)), 4, 4.0, {})
    return file


def velocity(transformer: torch.nn.Module, device: torch.device) -> torch.Tensor:
    """Of a picture of 64 × 64 pixels, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    x, caps = torch.randn(1, 16, 8, 8, generator=generator), [torch.randn(40, 32, generator=generator)]
    inputs = (x.to(device), torch.tensor([0.7], device=device), [caps[0].to(device)])
    with torch.no_grad():
        return predict_velocity(transformer, *inputs).float().cpu()  # type: ignore[arg-type]


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", ["", *kinds()])
def test_the_card_computes_what_the_processor_does(kind: str, model: Path, lora: Path, home: Path) -> None:
    expected = velocity(load_transformer(model, CPU, torch.float32, kind), CPU)
    whole = load_transformer(model, CARD, torch.bfloat16, kind)
    away = load_transformer(model, CARD, torch.bfloat16, kind, 4)
    bare = velocity(whole, CARD)
    assert off(bare, expected) < 0.05
    assert off(velocity(away, CARD), bare) < (0.02 if kind.endswith("-fast") else 1e-3)
    stacks = [apply_adapters(each, [(read_adapter(lora), 0.7, 1, 0)]) for each in (whole, away)]
    both = velocity(whole, CARD)
    assert off(velocity(away, CARD), both) < (0.02 if kind.endswith("-fast") else 1e-3) and off(both, bare) > 0.01
    for stack in stacks:
        stack.remove()
    assert off(velocity(whole, CARD), bare) < 1e-3


@pytest.mark.parametrize("kind", [kind for kind in kinds() if not kind.endswith("-quanto")])
def test_gradients_are_those_of_the_weights_that_the_packed_ones_stand_for(kind: str, model: Path, home: Path) -> None:
    packed = load_transformer(model, CARD, torch.float32, kind)
    found = []
    for transformer in (packed, load_transformer(model, CARD, torch.float32)):
        attach_lora(transformer, rank=4, alpha=4.0, seed=1)
        x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0)).to(CARD)
        caps = [torch.randn(40, 32, generator=torch.Generator().manual_seed(1)).to(CARD)]
        predict_velocity(transformer, x, torch.tensor([0.7], device=CARD), caps).square().mean().backward()
        grads = [one.grad.flatten() for one in transformer.parameters() if one.grad is not None]
        found.append(torch.cat(grads).float().cpu())
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > (0.9 if kept_as(kind) == "nf4" else 0.98)


def test_pictures_lie_near_those_of_the_processor(
    model: Path, lora: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = GenerateSettings(
        prompts=("a cat",), steps=4, guidance=2.0, width=64, height=64, loras=(LoraUse(str(lora), 0.5),)
    )
    drawn = [generate(settings, model, tmp_path / "card.png")[0]]
    drawn += [generate(settings, model, tmp_path / "small.png", warm=Warm(free=lambda: 1 << 20))[0]]
    for name in ("zit_app.engine.generate", "zit_app.engine.warm"):
        monkeypatch.setattr(f"{name}.default_device", lambda: CPU)
    exact = np.asarray(Image.open(generate(settings, model, tmp_path / "processor.png")[0])).astype(int)
    for file in drawn:
        assert np.abs(np.asarray(Image.open(file)).astype(int) - exact).mean() < 4


def test_an_omni_looks_at_pictures(home: Path, tmp_path: Path) -> None:
    folder = make_tiny_omni(tmp_path / "omni")
    Image.effect_noise((96, 80), 90).convert("RGB").save(tmp_path / "bag.png")
    for precision in ("auto", "int8", "nf4"):
        settings = GenerateSettings(
            prompts=("the bag",), steps=2, width=64, height=48, precision=precision,
            references=(str(tmp_path / "bag.png"),),
        )  # fmt: skip
        assert generate(settings, folder, tmp_path / f"{precision}.png")[0].is_file()


def full_transformer(device: torch.device) -> torch.nn.Module:
    """The full Z-Image in bf16 with random weights, the same every time."""
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**full_model.TRANSFORMER)
    model.to(torch.bfloat16).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)


def test_the_full_size_table(capsys: pytest.CaptureFixture[str]) -> None:
    free = torch.cuda.mem_get_info()[0]
    if free < FREE:
        pytest.skip(f"the full-size table needs {FREE >> 30} GiB free on the card, {free >> 30} are")
    request = Request(1024, 1024, caption_tokens=100)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 16, 128, 128, generator=draw).to(CARD)
    caps = [torch.randn(100, 2560, generator=draw).to(CARD, torch.bfloat16)]
    rows, reference = [], torch.empty(0)
    for kind in ("", *kinds()):
        transformer = full_transformer(CARD)
        if kind:
            store_blocks(transformer, kind, CARD)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        weights, seconds = torch.cuda.memory_allocated(), []
        for _ in range(4):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            with torch.no_grad():
                v = predict_velocity(transformer, x, torch.tensor([0.7], device=CARD), caps)  # type: ignore[arg-type]
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated()
        reference = reference if len(reference) else v.float().cpu()
        error = off(v.float().cpu(), reference)
        counted = sizes.transformer_weights(full_model.TRANSFORMER).size(kind, 2)
        counted += memory.drawing_activations(full_model.TRANSFORMER, Numbers(2, kind, 2, ""), request)
        rows.append((kind or "bf16", weights / 2**30, peak / 2**30, counted / 2**30, min(seconds[1:]), error))
        del transformer, v
        assert peak <= counted / memory.SHARE, rows[-1]
        assert error < ERRORS.get(kind, 1e-6), rows[-1]
    with capsys.disabled():
        print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, one call at 1024 × 1024, random weights")
        print(f"{'format':<14}{'weights':>9}{'peak':>9}{'planned':>9}  GiB{'seconds':>9}{'error':>9}")
        for name, *figures, took, error in rows:
            print(f"{name:<14}" + "".join(f"{one:>9.2f}" for one in figures) + f"     {took:>9.3f}{error:>9.4f}")
