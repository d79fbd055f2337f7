"""How a training is doing, beyond its loss: on held-out pictures, and on prompts that have nothing to do with them.

A person should see the few-step pictures breaking before they are broken. Everything is measured on the model as it
will be used (`engine/shipped.py`), with noise of its own, so that measuring changes nothing.

M prompts, N nodes, C latent channels, H and W latent pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zit_app.core.run import Run
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.frozen import FEW, Frozen
from zit_app.engine.objective import sample_losses
from zit_app.engine.shipped import as_saved, write_adapter
from zit_app.engine.work import Work
from zit_app.flow.diversity import SIDE
from zit_app.flow.schedule import noisy
from zit_app.flow.sharpness import sharpness
from zit_app.flow.solvers import euler
from zit_app.model.draw import noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents
from zit_app.model.loading import load_vae, read_flavour

BEST = "best.safetensors"
HELD_OUT_SEED = 2000


def take_health(work: Work, state: TrainState, run: Run) -> None:
    """Measure and append to the run's metrics: ``health`` and, with held-out pictures, ``held_out``.

    The adapter with the lowest held-out loss so far is kept as `best.safetensors` when the settings say so.
    """
    figures: dict[str, Any] = {}
    with as_saved(work, state):
        if work.held:
            figures["held_out"] = held_out_losses(work, state)
        if work.frozen is not None:
            drift = drift_at_nodes(work, work.frozen, state)
            run.write_status("running")  # a sign of life: on a slow card all of this takes a minute
            figures["health"] = {"drift": drift, **few_step_pictures(work, work.frozen, state)}
    run.append_metrics(step=state.step, **figures)
    if work.held:
        loss = figures["held_out"]["loss"]
        if state.best is None or loss < state.best:
            state.best = loss
            if work.settings.training.keep_best:
                write_adapter(work, state, run.folder / BEST)


def held_out_losses(work: Work, state: TrainState) -> dict[str, Any]:
    """The training's own loss, before any weight, on the held-out pictures at each node; noise fixed by picture."""
    nodes_N, acrf = work.nodes_N.float(), work.settings.acrf
    rows = []
    for number in range(len(work.held)):
        x0_1CHW, caps = work.load(work.held[number : number + 1], [False])
        generator = torch.Generator().manual_seed(HELD_OUT_SEED + number)
        noise_1CHW = torch.randn(x0_1CHW.shape, generator=generator).to(x0_1CHW)
        row = []
        for sigma in nodes_N:
            sigma_1 = sigma[None].to(work.device)
            x_1CHW = noisy(x0_1CHW, noise_1CHW, sigma_1)
            v_1CHW = predict_velocity(state.transformer, x_1CHW, sigma_1, caps)
            row.append(sample_losses(acrf, v_1CHW, x_1CHW, x0_1CHW, noise_1CHW, sigma_1, work.lab).item())
        rows.append(row)
    losses_N = torch.tensor(rows).mean(0)
    return {"loss": losses_N.mean().item(), "nodes": keyed(nodes_N, losses_N)}


def drift_at_nodes(work: Work, frozen: Frozen, state: TrainState) -> dict[str, float]:
    """``mean |v - v_untrained|`` at each node, on the states that the untrained model visits."""
    drifts = []
    for column, sigma in enumerate(frozen.sigma_N):
        total = 0.0
        for row in range(len(frozen.caps[:FEW])):
            x_1CHW = frozen.x_MNCHW[row, column][None].to(work.device)
            caps = [frozen.caps[row].to(work.device)]
            v_1CHW = predict_velocity(state.transformer, x_1CHW, sigma[None].to(work.device), caps)
            total += (v_1CHW.cpu() - frozen.v_MNCHW[row, column]).abs().mean().item()
        drifts.append(total / len(frozen.caps[:FEW]))
    return keyed(frozen.sigma_N, torch.tensor(drifts))


def few_step_pictures(work: Work, frozen: Frozen, state: TrainState) -> dict[str, float]:
    """``sharpness``: of the pictures now, as a ratio to the untrained model's from the same noise; below 1 they blur.
    ``distance``: root mean square difference of the two at 32 × 32, RGB in 0 … 1; it grows as other things appear.
    """
    flavour = read_flavour(work.model)
    vae = load_vae(work.model, work.device, work.dtype)
    size = (frozen.x0_MCHW.shape[-1] * 8, frozen.x0_MCHW.shape[-2] * 8)
    empty = [work.cache.features(work.cache.empty_text).to(work.device)]
    now, before, apart = 0.0, 0.0, 0.0
    for row, cap in enumerate(frozen.caps[:FEW]):
        caps = [cap.to(work.device)]

        def velocity(x: Tensor, sigma: Tensor, step: int, caps: list[Tensor] = caps) -> Tensor:
            v = predict_velocity(state.transformer, x, sigma.expand(1), caps)
            if not flavour.guidance:
                return v
            return v + flavour.guidance * (v - predict_velocity(state.transformer, x, sigma.expand(1), empty))

        noise = noise_for([frozen.seeds[row]], state.transformer.in_channels, size).to(work.device)
        pair = torch.cat([euler(velocity, noise, work.nodes_N).cpu(), frozen.x0_MCHW[row][None]])
        pictures = torch.cat([decode_latents(vae, one[None]) for one in pair]).permute(0, 3, 1, 2).float() / 255
        small = F.adaptive_avg_pool2d(pictures, SIDE)
        sharp = sharpness(pictures).tolist()
        now, before = now + sharp[0], before + sharp[1]
        apart += (small[0] - small[1]).square().mean().sqrt().item() / len(frozen.caps[:FEW])
    return {"sharpness": now / before if before else 1.0, "distance": apart}


def keyed(sigma_N: Tensor, values_N: Tensor) -> dict[str, float]:
    """Values by their node's sigma, as in the metrics of a step."""
    return {f"{sigma:.4f}": value for sigma, value in zip(sigma_N.tolist(), values_N.tolist(), strict=True)}
