"""Text features and latents are those of diffusers' pipeline."""

from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline

from tests.tiny import make_tiny_model
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents, denormalise, encode_pictures, normalise
from zit_app.model.loading import Limits, load_text_encoder, load_transformer, load_vae, read_limits
from zit_app.model.text import encode_prompts

PROMPTS = ["a red apple", "", "扁平表情，红苹果，居中", "long " * 40]


@pytest.mark.parametrize("limit", [512, 64])
def test_text_features_are_those_of_the_pipeline(tiny_model: Path, tiny_pipeline: ZImagePipeline, limit: int) -> None:
    with torch.no_grad():
        expected = tiny_pipeline.encode_prompt(
            list(PROMPTS), do_classifier_free_guidance=False, max_sequence_length=limit
        )[0]
    tokenizer, encoder = load_text_encoder(tiny_model, torch.device("cpu"), torch.float32)
    together = encode_prompts(tokenizer, encoder, PROMPTS, limit)
    alone = [encode_prompts(tokenizer, encoder, [prompt], limit)[0] for prompt in PROMPTS]
    for theirs, ours, single in zip(expected, together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(single, theirs, atol=1e-5, rtol=0)
    assert max(len(feats) for feats in together) == (64 if limit == 64 else len(expected[3]))


def test_latents_round_trip_through_scale_and_shift(tiny_model: Path) -> None:
    vae = load_vae(tiny_model, torch.device("cpu"), torch.float32)
    mean, logvar = encode_pictures(vae, torch.rand(2, 3, 32, 48) * 2 - 1)
    assert mean.shape == logvar.shape == (2, 16, 4, 6)
    torch.testing.assert_close(normalise(vae, mean), (mean - 0.1159) * 0.3611)
    torch.testing.assert_close(denormalise(vae, normalise(vae, mean)), mean)


def test_decoded_pixels_are_those_of_the_pipeline(tiny_model: Path, tiny_pipeline: ZImagePipeline) -> None:
    vae = load_vae(tiny_model, torch.device("cpu"), torch.float32)
    latents = torch.randn(2, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoded = tiny_pipeline.vae.decode(latents / 0.3611 + 0.1159).sample
    expected = tiny_pipeline.image_processor.postprocess(decoded, output_type="pil")
    pixels = decode_latents(vae, latents)
    assert pixels.shape == (2, 32, 48, 3)
    for ours, theirs in zip(pixels, expected, strict=True):
        assert ours.numpy().tobytes() == theirs.tobytes()


def test_the_longest_caption_still_has_positions(tmp_path: Path) -> None:
    transformer = load_transformer(make_tiny_model(tmp_path, axes_lens=[66, 4, 6]), torch.device("cpu"), torch.float32)
    limits = read_limits(tmp_path)
    assert limits == Limits(tokens=64, width=96, height=64)
    x = torch.randn(1, 16, limits.height // 8, limits.width // 8)
    predict_velocity(transformer, x, torch.ones(1), [torch.randn(limits.tokens, 32)])
    with pytest.raises(IndexError):
        predict_velocity(transformer, x, torch.ones(1), [torch.randn(limits.tokens + 1, 32)])
