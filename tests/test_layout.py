"""The memory plan is obeyed: blocks come for their turn, the text encoder for new prompts, pictures stay the same."""

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from tests.test_adapters import random_lora
from tests.tiny import make_tiny_model
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.memory import Numbers, Request, plan_layout, read_model
from zit_app.core.progress import Progress
from zit_app.core.sizes import transformer_weights
from zit_app.engine.generate import generate
from zit_app.engine.warm import Warm
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents, set_decoding
from zit_app.model.loading import find_model, load_transformer, load_vae
from zit_app.model.precision import STORED
from zit_app.model.rotation import to_card

CPU = torch.device("cpu")
LAYERS = 6
# On a processor bitsandbytes' products depend on where in memory its tensors lie, as torch's do in the last bit; the
# fast formats round inputs, so that such a bit can turn one.
NEAR = {"nf4": 1e-5, "int8-fast": 0.02, "fp8-fast": 0.02}
SMALL: dict[str, Any] = dict(width=64, height=48, steps=2, guidance=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("deep"), n_layers=LAYERS)


@pytest.fixture(scope="module")
def loras(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    transformer, folder = load_transformer(model, CPU, torch.float32), tmp_path_factory.mktemp("loras")
    for seed in (1, 2):
        save_adapter(folder / f"{seed}.safetensors", random_lora(transformer, seed), 4, 4.0, {})
    return sorted(folder.glob("*.safetensors"))


def velocity(transformer: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x, caps = torch.randn(1, 16, 8, 8, generator=generator), [torch.randn(20, 32, generator=generator)]
    with torch.no_grad():
        return predict_velocity(transformer, x, torch.tensor([0.7]), caps)  # type: ignore[arg-type]


class Moves(TorchDispatchMode):
    """In which order blocks are copied from their homes; nothing else may read there."""

    def __init__(self, transformer: torch.nn.Module, away: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks: list[int] = []
        self._homes = {
            weight.untyped_storage().data_ptr(): number
            for number in away
            for weight in transformer.layers[number].parameters()  # type: ignore[index]
            if weight.ndim == 2
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for one in tree_leaves((args, kwargs)):
            home = self._homes.get(one.untyped_storage().data_ptr()) if isinstance(one, torch.Tensor) else None
            if home is not None:
                assert func is torch.ops.aten.copy_.default
                self.blocks += [home] if self.blocks[-1:] != [home] else []
        return func(*args, **(kwargs or {}))


def test_blocks_come_one_ahead_and_nothing_computes_where_they_live(model: Path) -> None:
    transformer = load_transformer(model, CPU, torch.float32)
    expected = velocity(transformer)
    moves = Moves(transformer, (1, 3, 5))
    to_card(transformer, list(transformer.layers), CPU, 3)
    away = [one.numel() for one in transformer.parameters() if one.is_meta]
    assert sum(away) == 3 * transformer_weights(read_model(model).transformer).moved("", 1)
    with moves:
        assert torch.equal(velocity(transformer), expected)
        assert torch.equal(velocity(transformer), expected)
    # each is called when the one before it computes, the first again behind the last
    assert moves.blocks == [1, 3, 5, 1, 3, 5, 1]
    transformer.layers[3].register_forward_pre_hook(_break_off)
    with pytest.raises(InterruptedError):
        velocity(transformer)
    transformer.layers[3]._forward_pre_hooks.popitem()
    assert torch.equal(velocity(transformer), expected)  # after a call that was broken off


def _break_off(*_: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize(("kind", "away"), [("", LAYERS), *((kind, 3) for kind in STORED)])
def test_every_format_and_stack_gives_the_same(
    kind: str, away: int, model: Path, loras: list[Path], home: Path
) -> None:
    answers = []
    for leaving in (0, away):
        transformer = load_transformer(model, CPU, torch.float32, kind, leaving)
        bare = velocity(transformer)
        stack = apply_adapters(transformer, [(read_adapter(file), 0.7, 1, 0) for file in loras])
        both = velocity(transformer)
        stack.set_weights([0.7, 0.0])
        answers.append([bare, both, velocity(transformer)])
        stack.remove()
        assert torch.equal(velocity(transformer), bare) or kind in NEAR
    assert not torch.equal(answers[0][0], answers[0][1])
    for resident, rotated in zip(*answers, strict=True):
        assert torch.allclose(resident, rotated, atol=NEAR[kind]) if kind in NEAR else torch.equal(resident, rotated)


class Listener(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def stage(self, text: str) -> None:
        self.said.append(text)
        super().stage(text)


def drawn(model: Path, warm: Warm, out: Path, **settings: Any) -> tuple[np.ndarray, list[str]]:
    """One picture, and what was said on the way."""
    listener = Listener()
    asked = GenerateSettings(**{**SMALL, "prompts": ("a red apple",), **settings})
    (picture,) = generate(asked, model, out / "picture.png", listener, warm)
    return np.asarray(Image.open(picture)).astype(int), listener.said


def budget_for(model: Path, meets: Callable[[Any], bool], **request: Any) -> int:
    """The largest free memory with which the plan is of a certain kind."""
    parts, numbers = read_model(model), Numbers(4, "", 4, "")
    for free in range(40_000_000, 100_000, -20_000):
        layout = plan_layout(parts, numbers, Request(64, 48, caption_tokens=512, **request), int(free * 0.85))
        if layout.fits and meets(layout):
            return free
    raise AssertionError("no budget leads there")


def test_pictures_of_a_small_card_are_those_of_a_large_one(
    model: Path, loras: list[Path], home: Path, tmp_path: Path
) -> None:
    uses = tuple(LoraUse(str(file), 0.7) for file in loras)
    stack = sum(file.stat().st_size for file in loras)
    large, said = drawn(model, Warm(lambda: 40_000_000), tmp_path, loras=uses)
    tight = budget_for(model, lambda layout: layout.transformer_away >= 3, adapters=stack)
    small = Warm(lambda: tight)
    before = encoders()
    assert np.array_equal(drawn(model, small, tmp_path, loras=uses)[0], large)
    assert encoders() == before  # gone as soon as it has read
    transformer = small.drawing(model, small_formats(), Progress())[0]
    assert sum(one.is_meta for one in transformer.parameters()) >= 3 * 9
    generous = Warm(lambda: 40_000_000)
    drawn(model, generous, tmp_path)
    assert encoders() == before + 1  # stays where everything fits
    generous.clear()
    assert encoders() == before


def small_formats() -> Any:
    from zit_app.model.precision import formats

    return formats("auto", "auto", CPU, torch.float32)


def encoders() -> int:
    gc.collect()
    return sum(type(one) is Qwen3Model for one in gc.get_objects())


READING = "Reading the prompts"


def test_the_encoder_is_called_for_new_prompts_alone(model: Path, home: Path, tmp_path: Path) -> None:
    tight = budget_for(model, lambda layout: not layout.encoder_stays)
    warm = Warm(lambda: tight)
    assert READING in drawn(model, warm, tmp_path)[1]
    assert READING not in drawn(model, warm, tmp_path, seed=5)[1]  # another seed
    assert READING not in drawn(model, warm, tmp_path, precision="int8")[1]  # another format of the transformer
    sister = make_tiny_model(tmp_path / "sister", n_layers=LAYERS)
    shutil.rmtree(sister / "transformer")
    shutil.copytree(make_tiny_model(tmp_path / "other", seed=3) / "transformer", sister / "transformer")
    assert READING not in drawn(sister, warm, tmp_path)[1]  # another model with the same encoder
    assert READING in drawn(tmp_path / "other", warm, tmp_path)[1]  # the same words, another encoder
    assert READING in drawn(tmp_path / "other", warm, tmp_path, text_precision="int8")[1]
    assert READING in drawn(tmp_path / "other", warm, tmp_path, prompts=("a cat",))[1]


def test_a_larger_picture_makes_more_blocks_leave_and_a_smaller_one_keeps_them(
    model: Path, home: Path, tmp_path: Path
) -> None:
    free = budget_for(model, lambda layout: layout.transformer_away == 0 and not layout.encoder_stays)
    warm = Warm(lambda: free)
    loading = "Loading the model"
    assert loading in drawn(model, warm, tmp_path)[1]
    assert loading in drawn(model, warm, tmp_path, width=256, height=256)[1]
    assert loading not in drawn(model, warm, tmp_path, seed=2)[1]


def test_pictures_decoded_one_by_one_are_the_same_and_tiles_nearly(home: Path) -> None:
    vae = load_vae(find_model("pocket"), CPU, torch.float32)
    z = torch.randn(2, 16, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    whole = decode_latents(vae, z).float()
    set_decoding(vae, True, 0)
    assert (decode_latents(vae, z).float() - whole).abs().max() <= 1  # sums in another order
    set_decoding(vae, True, 128)
    tiled = decode_latents(vae, z).float()
    assert not torch.equal(tiled, whole)  # diffusers' own setting would leave these pictures whole
    assert (tiled - whole).abs().mean() < 8  # of 255, on noise, the worst there is
    set_decoding(vae, False, 0)
    assert torch.equal(decode_latents(vae, z).float(), whole)
