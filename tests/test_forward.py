"""Our batched forward is diffusers' forward: values and gradients, with adapters and with checkpointing."""

import copy

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.model.adapters import attach_lora, load_lora_state, lora_state
from zit_app.model.forward import padded_length, predict_velocity

SAME_PAD, MIXED = (20, 5, 32), (20, 40, 32)


@pytest.fixture
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    return copy.deepcopy(tiny_pipeline.transformer)


def batch(
    lengths: tuple[int, ...], height: int = 10, width: int = 6
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(lengths), 16, height, width, generator=generator)
    return x, torch.tensor([1.0, 0.5, 0.1]), [torch.randn(n, 32, generator=generator) for n in lengths]


def diffusers_velocity(
    transformer: ZImageTransformer2DModel, x: torch.Tensor, sigma: torch.Tensor, caps: list[torch.Tensor]
) -> torch.Tensor:
    return -torch.stack(transformer(list(x.unsqueeze(2)), 1 - sigma, caps, return_dict=False)[0]).squeeze(2)


def with_lora(transformer: ZImageTransformer2DModel) -> ZImageTransformer2DModel:
    """A LoRA whose up matrices are not zero, as if it had been trained."""
    attach_lora(transformer, rank=4, alpha=8.0)
    generator = torch.Generator().manual_seed(1)
    state = {name: 0.2 * torch.randn(w.shape, generator=generator) for name, w in lora_state(transformer).items()}
    load_lora_state(transformer, state)
    return transformer


@pytest.mark.parametrize("lengths", [SAME_PAD, MIXED])
@pytest.mark.parametrize("size", [(10, 6), (8, 8), (16, 16)])  # 15, 16 and 64 image tokens
def test_values(transformer: ZImageTransformer2DModel, lengths: tuple[int, ...], size: tuple[int, int]) -> None:
    inputs = batch(lengths, *size)
    with torch.no_grad():
        expected = diffusers_velocity(transformer, *inputs)
        torch.testing.assert_close(predict_velocity(transformer, *inputs), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1


def test_equal_padding_never_enters_the_list_forward(
    transformer: ZImageTransformer2DModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(transformer, "forward", refuse)
    predict_velocity(transformer, *batch(SAME_PAD))
    with pytest.raises(AssertionError):
        predict_velocity(transformer, *batch(MIXED))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", [SAME_PAD, MIXED])
def test_lora_gradients(transformer: ZImageTransformer2DModel, lengths: tuple[int, ...], checkpointing: bool) -> None:
    with_lora(transformer)
    inputs = batch(lengths)
    parameters = [p for p in transformer.parameters() if p.requires_grad]
    expected = torch.autograd.grad(diffusers_velocity(transformer, *inputs).square().mean(), parameters)
    if checkpointing:
        transformer.enable_gradient_checkpointing()
        transformer.train()
    got = torch.autograd.grad(predict_velocity(transformer, *inputs).square().mean(), parameters)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in got)


def test_checkpointing_recomputes_the_blocks(transformer: ZImageTransformer2DModel) -> None:
    calls = []
    with_lora(transformer)
    transformer.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    transformer.enable_gradient_checkpointing()
    predict_velocity(transformer, *batch(SAME_PAD)).mean().backward()
    assert len(calls) == 2


def test_bf16_model_takes_and_returns_fp32(transformer: ZImageTransformer2DModel) -> None:
    inputs = batch(SAME_PAD)
    with torch.no_grad():
        exact = predict_velocity(transformer, *inputs)
        rounded = predict_velocity(transformer.to(torch.bfloat16), *inputs)
    assert rounded.dtype == torch.float32
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.05


def test_padded_length() -> None:
    assert [padded_length(n) for n in (1, 32, 33)] == [32, 32, 64]
