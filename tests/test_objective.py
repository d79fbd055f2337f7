"""What a step minimises: the settings reach the loss, the tether holds where it should, the learning rate's course."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zit_app.core.train_settings import AcrfSettings, TrainingSettings
from zit_app.engine.objective import at_nodes, frozen_velocity, learning_rate, sample_losses, tether_losses
from zit_app.flow.schedule import nodes, noisy
from zit_app.model.adapters import attach_lora
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer


def sample(count: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    x0, noise = torch.randn(2, count, 16, 12, 12)
    sigma = torch.tensor([1.0, 0.6, 0.3][:count])
    return torch.randn(count, 16, 12, 12), noisy(x0, noise, sigma), x0, noise, sigma


def test_standard_loss_adds_its_three_terms() -> None:
    v, x, x0, noise, sigma = sample()
    target = noise - x0
    squares = ((v - target) ** 2).mean((1, 2, 3))
    cosines = 1 - (v * target).sum((1, 2, 3)) / (v.flatten(1).norm(dim=1) * target.flatten(1).norm(dim=1))
    spectra = torch.fft.fft2(v - target, norm="ortho").abs().mean((1, 2, 3))
    acrf = AcrfSettings(lambda_base=2.0, lambda_cos=0.1, lambda_fft=0.3)
    expected = 2 * squares + 0.1 * cosines + 0.3 * spectra
    torch.testing.assert_close(sample_losses(acrf, v, x, x0, noise, sigma), expected)


@pytest.mark.parametrize("base", ["mse", "charbonnier", "l1", "huber"])
@pytest.mark.parametrize("mode", ["standard", "frequency", "style", "unified"])
def test_every_mode_is_lowest_at_the_truth_and_has_a_slope(mode: str, base: str) -> None:
    v, x, x0, noise, sigma = sample()
    acrf = AcrfSettings(loss_mode=mode, base=base, lambda_cos=0.1, lambda_fft=0.1)
    truth = sample_losses(acrf, noise - x0, x, x0, noise, sigma)
    torch.testing.assert_close(truth, torch.zeros(3), atol=1e-5, rtol=0)
    v.requires_grad_()
    wrong = sample_losses(acrf, v, x, x0, noise, sigma)
    assert (wrong > 0.01).all()
    (slope,) = torch.autograd.grad(wrong.sum(), v)
    assert torch.isfinite(slope).all() and (slope.flatten(1).norm(dim=1) > 0).all()


CHANGES = {
    "standard": dict(base="l1", lambda_base=0.5, lambda_cos=0.3, lambda_fft=0.3),
    "frequency": dict(alpha_hf=0.5, beta_lf=0.9, pool_factor=3),
    "style": dict(lambda_struct=0.1, lambda_light=0.1, lambda_color=0.9, lambda_tex=0.1, pool_factor=3),
    "unified": dict(alpha_hf=0.5, beta_lf=0.9, lambda_struct=0.1, lambda_light=0.1, lambda_color=0.9, lambda_tex=0.1),
}


@pytest.mark.parametrize(("mode", "key"), [(mode, key) for mode, keys in CHANGES.items() for key in keys])
def test_no_setting_of_the_loss_changes_nothing(mode: str, key: str) -> None:
    data = sample()
    plain = AcrfSettings(loss_mode=mode)
    changed = replace(plain, **{key: CHANGES[mode][key]})
    assert not torch.allclose(sample_losses(plain, *data), sample_losses(changed, *data))


def test_tether_holds_the_samples_at_nodes_and_only_those(tiny_model: Path) -> None:
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    x, caps = torch.randn(3, 16, 4, 4), [torch.randn(length, 32) for length in (5, 9, 5)]
    sigma = torch.tensor([0.9, 0.4, 0.515])  # a node, between two nodes, a jittered node
    untrained = predict_velocity(transformer, x, sigma, caps)
    attach_lora(transformer, 4, 4.0)
    for name, weight in transformer.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.3)
    at_node = at_nodes(sigma, nodes(8), 0.02)
    assert at_node == [0, 2]
    frozen = frozen_velocity(transformer, x, sigma, caps, at_node)
    torch.testing.assert_close(frozen, untrained[at_node], atol=1e-5, rtol=1e-5)

    v = predict_velocity(transformer, x, sigma, caps)
    held = tether_losses(v, at_node, frozen)
    distance = (v - untrained).abs()
    expected = torch.where(distance <= 0.08, distance**2 / 2, 0.08 * (distance - 0.04)).mean((1, 2, 3))
    torch.testing.assert_close(held, expected * torch.tensor([1.0, 0.0, 1.0]), atol=1e-6, rtol=1e-4)
    held.sum().backward()
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in transformer.parameters())
    far = torch.full((3,), 0.4)
    assert at_nodes(far, nodes(8), 0.02) == []
    assert tether_losses(v, [], frozen_velocity(transformer, x, far, caps, [])).tolist() == [0, 0, 0]


def test_learning_rate_warms_up_and_comes_down() -> None:
    training = TrainingSettings(learning_rate=1e-4, minimum_learning_rate=1e-6, lr_warmup_steps=100)
    course = [learning_rate(training, step, 2000) for step in range(2000)]
    assert course[:100] == sorted(course[:100]) and course[0] == pytest.approx(1e-4 / 101)
    assert max(course) == course[100] == 1e-4
    assert course[1050] == pytest.approx((1e-4 + 1e-6) / 2)
    assert course[-1] == pytest.approx(1e-6, rel=0.01) and min(course[100:]) >= 1e-6
    assert learning_rate(training, 5, 50) == 1e-4  # a short run warms up in a tenth of it


def test_learning_rate_courses_differ() -> None:
    def at(name: str, cycles: int = 1) -> list[float]:
        training = TrainingSettings(lr_scheduler=name, lr_cycles=cycles, lr_warmup_steps=0)
        return [learning_rate(training, step, 100) for step in range(100)]

    assert set(at("constant")) == {1e-4}
    assert at("linear")[50] == pytest.approx((1e-4 + 1e-6) / 2) and at("linear")[25] != pytest.approx(at("cosine")[25])
    assert at("cosine", 4) == at("cosine") == at("cosine_with_restarts", 1)
    restarted = at("cosine_with_restarts", 4)
    assert [step for step, rate in enumerate(restarted) if rate == 1e-4] == [0, 25, 50, 75]
