"""Learning where unrelated prompts are not disturbed: the coordinates against numpy, the LoRA on a small model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import brentq
from torch import Tensor

from zit_app.core.sizes import null_space_numbers
from zit_app.core.train_settings import LoraSettings
from zit_app.flow.null_space import damping
from zit_app.model.adapters import adapter_weights, attach_lora, check_targets
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer
from zit_app.model.null_space import NullSpace, recorded_inputs


def rows(count: int, width: int, used: int | None = None) -> Tensor:
    """Inputs with uneven energies, in ``used`` directions only."""
    generator = torch.Generator().manual_seed(count)
    mixed = torch.randn(used or width, width, generator=generator)
    return torch.randn(count, used or width, generator=generator) * torch.linspace(0.05, 2, used or width) @ mixed


def by_hand(s: np.ndarray, share: float) -> np.ndarray:
    """M in float64, from the whole matrix."""
    c = s.T @ s / len(s)
    rank = np.linalg.matrix_rank(c, tol=1e-6 * np.linalg.norm(c, 2))

    def too_many(exponent: float) -> float:
        return float(np.trace(c @ np.linalg.inv(c + 10**exponent * np.eye(len(c)))) - share * rank)

    level = 10 ** brentq(too_many, -9, 9)
    m = np.real(sqrtm(level * np.linalg.inv(c + level * np.eye(len(c)))))
    return m * np.sqrt(len(c)) / np.linalg.norm(m)


@pytest.mark.parametrize("count", [7, 24, 300])  # fewer rows than inputs, as many, more
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_coordinates_are_those_of_the_formula(count: int, share: float) -> None:
    inputs, weights = rows(count, 24), torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    expected = weights.double().numpy() @ by_hand(inputs.double().numpy(), share)
    np.testing.assert_allclose(damping(inputs, share, 512)(weights).numpy(), expected, rtol=2e-3, atol=2e-3)


def test_the_strongest_directions_alone_and_none() -> None:
    inputs = rows(300, 24)
    few = damping(inputs, 0.5, 6)
    assert few.directions_DK.shape == (24, 6)
    m = few(torch.eye(24))
    assert m.norm().item() == pytest.approx(24**0.5, rel=1e-4)  # as large as the identity
    assert (1 - few.gains_K.square()).mean().item() == pytest.approx(0.5, rel=1e-4)
    enormous = inputs.clone()
    enormous[:, 0] *= 1000  # one input decides nothing about the others
    gains = damping(enormous, 0.5, 512).gains_K
    assert gains.min() < 0.01 and 0.4 < (1 - gains.square()).median() < 0.6
    weights = torch.randn(5, 24)
    assert torch.equal(damping(torch.zeros(9, 24), 0.5, 512)(weights), weights)


def test_layers_are_recorded_as_they_are_called(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    names = check_targets(transformer, "attention+feed_forward", "", "lora", 0)
    caps = [torch.randn(9, transformer.config["cap_feat_dim"])] * 2
    whole: list[Tensor] = []
    handle = transformer.get_submodule(names[0]).register_forward_pre_hook(lambda _, given: whole.append(given[0]))
    with torch.no_grad(), recorded_inputs(transformer, names, calls=3) as inputs:
        for sigma in (0.9, 0.5, 0.1):
            predict_velocity(transformer, torch.randn(2, 16, 8, 8), torch.full((2,), sigma), caps)
    handle.remove()
    assert inputs.keys() == set(names)
    tokens = torch.cat([each.flatten(0, -2) for each in whole])
    assert len(inputs[names[0]]) == len(tokens)  # so few are all kept, in another order
    assert sorted(inputs[names[0]].tolist()) == sorted(tokens.tolist())
    q, k, v, out, w1, w2, w3 = (inputs[name] for name in names[:7])
    assert q is k is v and w1 is w3 and out is not q and w2 is not w1
    assert not any(module._forward_pre_hooks for module in transformer.modules())


def test_the_memory_plan_knows_what_is_kept(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    names = attach_lora(transformer, 4, 4.0)
    weights = adapter_weights(transformer)
    inputs = {name: torch.randn(200, weights[f"{name}.lora_A.weight"].shape[1]) for name in names}
    for name in names:  # as layers share them
        for own, first in (("to_k", "to_q"), ("to_v", "to_q"), ("w3", "w1")):
            if name.endswith(own):
                inputs[name] = inputs[name.replace(own, first)]
    space = NullSpace(transformer, inputs, share=0.5)
    kept = {id(damped): damped.directions_DK.numel() for _, damped in space.layers.values()}
    assert sum(kept.values()) == null_space_numbers(LoraSettings(), transformer.config)


def test_learning_leaves_alone_what_recorded_inputs_use(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    names = attach_lora(transformer, 4, 4.0)
    weights = adapter_weights(transformer)
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    shapes = {name: weights[f"{name}.lora_A.weight"].shape[1] for name in names}
    inputs = {name: rows(200, width, used=3) for name, width in shapes.items()}
    space = NullSpace(transformer, inputs, share=0.99)
    optimizer = torch.optim.SGD(list(weights.values()), lr=0.1)
    generator = torch.Generator().manual_seed(2)
    for weight in weights.values():
        weight.grad = torch.randn(weight.shape, generator=generator)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    gradients = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    with space.stepping():
        optimizer.step()
    for name, width in shapes.items():
        a, b = (f"{name}.lora_{half}.weight" for half in "AB")
        m = by_hand(inputs[name].double().numpy(), 0.99)
        moved = (weights[a] - before[a]).detach()
        expected = -0.1 * gradients[a].double().numpy() @ m @ m
        np.testing.assert_allclose(moved.numpy(), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
        np.testing.assert_allclose(before[a].numpy(), start[a].double().numpy() @ m, rtol=0.02, atol=0.02)
        torch.testing.assert_close(weights[b].detach(), start[b] - 0.1 * gradients[b])  # the other half as ever
        free = torch.randn(200, width, generator=generator)
        free *= inputs[name].square().mean().sqrt() / free.square().mean().sqrt()
        disturbed, able = ((x @ moved.T).square().mean() for x in (inputs[name], free))
        assert disturbed < 0.1 * able
