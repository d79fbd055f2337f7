"""What number formats cost and change: size, time and error of one model in each, against the full one."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zit_app.core.progress import Progress
from zit_app.flow.schedule import nodes
from zit_app.model.draw import draw_latents, noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents
from zit_app.model.loading import default_device, load_text_encoder, load_transformer, load_vae, read_flavour
from zit_app.model.precision import STORED
from zit_app.model.text import encode_prompts

Row = dict[str, Any]


def precision_table(folder: Path, prompts: Sequence[str], kinds: Sequence[str], progress: Progress) -> list[Row]:
    """One row a format: bytes of the transformer, relative error of velocities at the model's own nodes, mean
    difference of pictures in 1/255, seconds a picture; and bytes and feature error of the text encoder.

    Compared with fp32 on the processor, with bf16 on a card.
    """
    device, flavour = default_device(), read_flavour(folder)
    full = torch.bfloat16 if device.type == "cuda" else torch.float32
    sigmas, size = nodes(flavour.steps, flavour.shift), (flavour.pixels, flavour.pixels)
    vae = load_vae(folder, device, full)
    reference: dict[str, torch.Tensor] = {}
    rows = []
    for kind in ["", *kinds]:
        dtype, stored = (torch.bfloat16, "") if kind == "bf16" else (full, kind)
        progress.stage(f"Measuring {kind or str(full).removeprefix('torch.')}")
        tokenizer, encoder = load_text_encoder(folder, device, dtype, stored)
        features = encode_prompts(tokenizer, encoder, prompts)
        text_bytes = _bytes(encoder)
        del encoder
        transformer = load_transformer(folder, device, dtype, stored)
        whole = reference["features"].split([len(one) for one in features]) if reference else features
        caps = [one.to(device) for one in whole]  # the full encoder's, so that each part's error stands alone
        velocities = _velocities(transformer, caps, sigmas, size)
        begun = time.perf_counter()
        latents = draw_latents(transformer, caps, caps, range(len(prompts)), size, sigmas, flavour.guidance)
        if latents.is_cuda:  # it computes on while this process goes on
            torch.cuda.synchronize(latents.device)
        seconds = (time.perf_counter() - begun) / len(prompts)
        found = {
            "features": torch.cat(features).float().cpu(),
            "velocities": velocities,
            "pictures": decode_latents(vae, latents).float(),
        }
        reference = reference or found
        rows.append(
            {
                "format": kind or str(full).removeprefix("torch."),
                "transformer_mb": round(_bytes(transformer) / 1e6, 1),
                "velocity_error": round(_off(found["velocities"], reference["velocities"]), 5),
                "pixel_difference": round((found["pictures"] - reference["pictures"]).abs().mean().item(), 3),
                "seconds_a_picture": round(seconds, 3),
                "text_encoder_mb": round(text_bytes / 1e6, 1),
                "feature_error": round(_off(found["features"], reference["features"]), 5),
            }
        )
        del transformer
    return rows


def known_kinds(device: torch.device) -> list[str]:
    """The formats that can be measured here."""
    own = [kind for kind in STORED if kind != "fp8-quanto" or device.type == "cpu"]
    return (["bf16"] if device.type == "cpu" else []) + own


def table_words(rows: Sequence[Row]) -> str:
    """The rows as text for people."""
    head = f"{'format':<12}{'MB':>9}{'velocity':>10}{'pixels':>8}{'s/picture':>11}{'text MB':>9}{'features':>10}"
    lines = [
        f"{row['format']:<12}{row['transformer_mb']:>9.1f}{row['velocity_error']:>10.4f}{row['pixel_difference']:>8.2f}"
        f"{row['seconds_a_picture']:>11.2f}{row['text_encoder_mb']:>9.1f}{row['feature_error']:>10.4f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


@torch.no_grad()
def _velocities(
    transformer: Any, caps: Sequence[torch.Tensor], sigmas: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    x = noise_for(range(len(caps)), transformer.in_channels, size).to(transformer.device)
    found = [predict_velocity(transformer, x, sigma.float().expand(len(x)), list(caps)) for sigma in sigmas]
    return torch.cat(found).float().cpu()


def _bytes(model: torch.nn.Module) -> int:
    """What parameters and buffers take; of quanto's tensors, their packed data and scales."""
    total = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        inner = [getattr(tensor, name) for name in ("_data", "_scale") if hasattr(tensor, name)] or [tensor]
        total += sum(one.numel() * one.element_size() for one in inner)
    return total


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()
