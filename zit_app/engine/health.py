"""How a training is doing, beyond its loss: on held-out pictures, and on prompts that have nothing to do with them.

A person should see the few-step pictures breaking before they are broken. Everything is measured on the model as it
will be used (`engine/shipped.py`), with noise of its own, so that measuring changes nothing.

M prompts, N nodes, H held-out pictures, C latent channels, H and W latent pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zit_app.core.run import Run
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.frozen import FEW, Frozen
from zit_app.engine.objective import sample_losses
from zit_app.engine.recognition import in_groups, recognised
from zit_app.engine.shipped import as_saved, write_adapter
from zit_app.engine.work import Work
from zit_app.flow.diversity import SIDE
from zit_app.flow.schedule import noisy
from zit_app.flow.sharpness import sharpness
from zit_app.flow.solvers import euler
from zit_app.model.adapter_stack import AdapterStack
from zit_app.model.draw import PIXELS_PER_LATENT, noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents
from zit_app.model.loading import load_vae, read_flavour

BEST = "best.safetensors"
HELD_OUT_SEED = 2000
FEWEST = 4  # prompts that are enough for the drift, which differs little between them


def take_health(work: Work, state: TrainState, run: Run) -> dict[str, Any]:
    """Measure, append to the run's metrics and return: ``health`` and, with held-out pictures, ``held_out``.

    The adapter with the lowest held-out loss so far is kept as `best.safetensors` when the settings say so.
    """
    figures: dict[str, Any] = {}
    with as_saved(work, state) as stack:
        if work.held:
            figures["held_out"] = held_out_losses(work, state)
        if work.frozen is not None:
            drift = drift_at_nodes(work, work.frozen, state)
            run.write_status("running")  # a sign of life: on a slow card all of this takes a minute
            x0_MCHW = draw_now(work, work.frozen, state)
            recall = recall_beside_before(work.frozen, state, stack, x0_MCHW)
            figures["health"] = {"drift": drift, "recall": recall, **beside_before(work, work.frozen, x0_MCHW)}
    run.append_metrics(step=state.step, **figures)
    if work.held:
        loss = figures["held_out"]["loss"]
        if state.best is None or loss < state.best:
            state.best = loss
            if work.settings.training.keep_best:
                write_adapter(work, state, run.folder / BEST)
    return figures


def held_out_losses(work: Work, state: TrainState) -> dict[str, Any]:
    """The training's own loss, before any weight, on the held-out pictures, at each node and, where the data set
    tells them apart, of each concept; noise fixed by picture."""
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
    losses_HN = torch.tensor(rows)
    found = {"loss": losses_HN.mean().item(), "nodes": keyed(nodes_N, losses_HN.mean(0))}
    concepts: dict[str, list[float]] = {}
    for sample, loss in zip(work.held, losses_HN.mean(1).tolist(), strict=True):
        concepts.setdefault(sample.category, []).append(loss)
    if len(concepts) > 1:
        found["concepts"] = {name: sum(each) / len(each) for name, each in sorted(concepts.items())}
    return found


def drift_at_nodes(work: Work, frozen: Frozen, state: TrainState) -> dict[str, float]:
    """``mean |v - v_untrained|`` at each node, on the states that the untrained model visits."""
    drifts = []
    for column, sigma in enumerate(frozen.sigma_N):
        apart = []
        for rows in in_groups(range(len(frozen.caps[:FEWEST])), frozen.x0_MCHW[0]):
            x_KCHW = frozen.x_MNCHW[rows, column].to(work.device)
            caps = [frozen.caps[row].to(work.device) for row in rows]
            v_KCHW = predict_velocity(state.transformer, x_KCHW, sigma.expand(len(rows)).to(work.device), caps)
            apart.append((v_KCHW.cpu() - frozen.v_MNCHW[rows, column]).abs())
        drifts.append(torch.cat(apart).mean().item())
    return keyed(frozen.sigma_N, torch.tensor(drifts))


def draw_now(work: Work, frozen: Frozen, state: TrainState) -> Tensor:
    """The first few unrelated prompts as the model draws them now, from the untrained model's noise, (M, C, H, W)."""
    guidance = read_flavour(work.model).guidance
    empty = work.cache.features(work.cache.empty_text).to(work.device)
    size = (frozen.x0_MCHW.shape[-1] * PIXELS_PER_LATENT, frozen.x0_MCHW.shape[-2] * PIXELS_PER_LATENT)
    ends = []
    for rows in in_groups(range(len(frozen.caps[:FEW])), frozen.x0_MCHW[0]):
        caps = [frozen.caps[row].to(work.device) for row in rows]

        def velocity(x: Tensor, sigma: Tensor, step: int, caps: list[Tensor] = caps) -> Tensor:
            v = predict_velocity(state.transformer, x, sigma.expand(len(x)), caps)
            if not guidance:
                return v
            return v + guidance * (v - predict_velocity(state.transformer, x, sigma.expand(len(x)), [empty] * len(x)))

        noise = noise_for([frozen.seeds[row] for row in rows], state.transformer.in_channels, size).to(work.device)
        ends.append(euler(velocity, noise, work.nodes_N).cpu())
    return torch.cat(ends)


def beside_before(work: Work, frozen: Frozen, x0_MCHW: Tensor) -> dict[str, float]:
    """``sharpness``: of the pictures now, as a ratio to the untrained model's from the same noise; below 1 they blur.
    ``distance``: root mean square difference of the two at 32 × 32, RGB in 0 … 1; it grows as other things appear.
    """
    vae = load_vae(work.model, work.device, work.dtype)
    now, before, apart = 0.0, 0.0, 0.0
    for pair in zip(x0_MCHW, frozen.x0_MCHW, strict=False):
        pictures = torch.cat([decode_latents(vae, one[None]) for one in pair]).permute(0, 3, 1, 2).float() / 255
        small = F.adaptive_avg_pool2d(pictures, SIDE)
        sharp = sharpness(pictures).tolist()
        now, before = now + sharp[0], before + sharp[1]
        apart += (small[0] - small[1]).square().mean().sqrt().item() / len(x0_MCHW)
    return {"sharpness": now / before if before else 1.0, "distance": apart}


def recall_beside_before(frozen: Frozen, state: TrainState, stack: AdapterStack, x0_MCHW: Tensor) -> float:
    """The share of pictures in which the untrained model recognises their prompts, as a ratio to that of its own."""
    stack.set_weights([0.0])
    now = recognised(state.transformer, x0_MCHW, frozen.caps[:FEW])
    stack.set_weights([1.0])
    return now / frozen.recall if frozen.recall else 1.0


def keyed(sigma_N: Tensor, values_N: Tensor) -> dict[str, float]:
    """Values by their node's sigma, as in the metrics of a step."""
    return {f"{sigma:.4f}": value for sigma, value in zip(sigma_N.tolist(), values_N.tolist(), strict=True)}
