"""What can be measured without a training: the gradients of the untrained model on the study's pictures.

Gradients are those of the weights themselves, so that nothing depends on how an adapter is parameterised.
B batch, C latent channels, H and W latent pixels, N nodes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zit_app.core.train_settings import AcrfSettings
from zit_app.engine.pocket.paint import Painter
from zit_app.engine.preparation import new_sampler
from zit_app.flow.schedule import nodes, noisy, velocity
from zit_app.model.forward import predict_velocity
from zit_app.model.text import encode_prompts

DRAWS, BATCH = 24, 8
LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
SAMPLERS = {
    "uniform": AcrfSettings(sampler="uniform"),
    "nodes": AcrfSettings(sampler="anchor"),
    "mixture": AcrfSettings(sampler="mixture"),
    "shift": AcrfSettings(sampler="shift"),
}
# The parts of the report's table in section 5.2, by what the name of a weight contains.
PARTS = {
    "to_q": ("attention.to_q.",),
    "to_k": ("attention.to_k.",),
    "to_v": ("attention.to_v.",),
    "to_out": ("attention.to_out.",),
    "w1 and w3": ("feed_forward.w1.", "feed_forward.w3."),
    "w2": ("feed_forward.w2.",),
    "norms and adaLN": ("norm", "adaLN"),
    "embedders": ("embedder",),
}


def probe(painter: Painter, x0_BCHW: Tensor, prompts: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """``samplers``, ``levels`` and ``parts``: rows of figures on the pictures ``x0_BCHW`` and their prompts."""
    caps = encode_prompts(*painter.text, list(prompts))
    transformer = painter.transformer
    transformer.requires_grad_(True)

    def gradient(sigma_B: Tensor, rows: Sequence[int], generator: torch.Generator) -> float:
        """Leave the gradient of the mean loss in the weights; the loss."""
        transformer.zero_grad(set_to_none=True)
        x0 = x0_BCHW[list(rows)]
        noise = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            v = predict_velocity(transformer, noisy(x0, noise, sigma_B), sigma_B, [caps[i] for i in rows])
        loss = (v.float() - velocity(x0, noise)).square().mean()
        loss.backward()
        return loss.item()

    named = [(name, weight) for name, weight in transformer.named_parameters() if name.startswith("layers.")]
    outside = [(n, w) for n, w in transformer.named_parameters() if "embedder" in n or "final_layer" in n]
    try:
        return {
            "samplers": _samplers(gradient, [w for n, w in named if _part(n) in list(PARTS)[:6]], len(x0_BCHW)),
            "levels": _levels(gradient, [w for _, w in named], len(x0_BCHW)),
            "parts": _parts(gradient, [*named, *outside], len(x0_BCHW)),
        }
    finally:
        transformer.requires_grad_(False)
        transformer.zero_grad(set_to_none=True)


Gradient = Callable[[Tensor, Sequence[int], torch.Generator], float]


def _samplers(gradient: Gradient, weights: list[Tensor], pictures: int) -> dict[str, dict[str, float]]:
    """Over batches of 8: ``noise / signal`` = trace of the gradient's covariance / square of its mean (both unbiased),
    and the deviation of the batch's ``loss`` over its mean."""
    rows = {}
    for name, acrf in SAMPLERS.items():
        generator = torch.Generator().manual_seed(0)
        sampler = new_sampler(acrf, nodes(acrf.turbo_steps, acrf.shift))
        mean, square, losses = torch.zeros(sum(w.numel() for w in weights)), 0.0, []
        for _ in range(DRAWS):
            sigma_B = sampler.draw(BATCH, generator)
            losses.append(gradient(sigma_B, torch.randperm(pictures, generator=generator)[:BATCH].tolist(), generator))
            flat = torch.cat([_grad(w).flatten() for w in weights])
            mean += flat / DRAWS
            square += flat.square().sum().item() / DRAWS
        variance = (square - mean.square().sum().item()) * DRAWS / (DRAWS - 1)
        signal = mean.square().sum().item() - variance / DRAWS
        loss = torch.tensor(losses)
        rows[name] = {"noise / signal": variance / signal, "deviation of the loss": (loss.std() / loss.mean()).item()}
    return rows


def _levels(gradient: Gradient, weights: list[Tensor], pictures: int) -> dict[str, dict[str, float]]:
    """At each noise level: the loss, and the norm of the gradient over all pictures."""
    rows = {}
    for level in LEVELS:
        generator = torch.Generator().manual_seed(0)
        loss = gradient(torch.full((pictures,), level), range(pictures), generator)
        rows[f"{level:g}"] = {"loss": loss, "gradient": _norm(weights)}
    return rows


def _parts(gradient: Gradient, named: list[tuple[str, Tensor]], pictures: int) -> dict[str, dict[str, float]]:
    """Share of each part in the sum of the parts' gradient norms, at uniform noise levels, and how many numbers it has:
    of two parts with the same gradient a number, the larger one has the larger norm."""
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    counts: dict[str, int] = {part: sum(w.numel() for n, w in named if _part(n) == part) for part in PARTS}
    for _ in range(DRAWS // 4):
        gradient(torch.rand(pictures, generator=generator), range(pictures), generator)
        for part in PARTS:
            sums[part] += _norm([w for n, w in named if _part(n) == part])
    whole = sum(sums.values())
    return {part: {"share of the norm": sums[part] / whole, "numbers": counts[part]} for part in PARTS}


def _part(name: str) -> str:
    return next((part for part, marks in PARTS.items() if any(mark in name for mark in marks)), "")


def _grad(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def _norm(weights: Sequence[Tensor]) -> float:
    return sum(_grad(w).square().sum().item() for w in weights) ** 0.5
