"""The schedule, the draw of noise levels, weights and the solver."""

import json
from collections import Counter

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

from zit_app.flow.schedule import clean_estimate, nodes, noisy, report_anchors, shift_sigma, unshifted, velocity
from zit_app.flow.solvers import euler
from zit_app.flow.timesteps import SigmaSampler, reflect
from zit_app.flow.weights import min_snr

EIGHT = [1, 0.954545, 0.9, 0.833333, 0.75, 0.642857, 0.5, 0.3]  # Z-Image facts, "The schedule"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_real_pipeline_visits_our_nodes(tiny_pipeline: ZImagePipeline) -> None:
    visited = []

    def callback(_pipe: object, _step: int, timestep: torch.Tensor, kwargs: dict) -> dict:
        visited.append(timestep.item() / 1000)
        return kwargs

    tiny_pipeline(
        "a cat",
        height=32,
        width=32,
        num_inference_steps=8,
        sigmas=unshifted(8).tolist(),
        guidance_scale=0.0,
        output_type="latent",
        callback_on_step_end=callback,
    )
    assert visited == pytest.approx(EIGHT, abs=1e-6)
    assert nodes(8).tolist() == pytest.approx(visited, abs=1e-7)


def test_report_anchors_are_those_of_a_bare_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    assert report_anchors(10).tolist() == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=1e-6)
    written = [1.000, 0.960, 0.913, 0.858, 0.790, 0.707, 0.602, 0.465, 0.278, 0.009]
    assert report_anchors(10).tolist() == pytest.approx(written, abs=6e-4)


def test_clean_picture_comes_back_from_the_true_velocity() -> None:
    x0, noise = torch.randn(2, 3, 4, 4, generator=generator()), torch.randn(2, 3, 4, 4, generator=generator(1))
    sigma = torch.tensor([1.0, 0.3])
    x = noisy(x0, noise, sigma)
    assert torch.equal(x[0], noise[0])
    torch.testing.assert_close(clean_estimate(x, velocity(x0, noise), sigma), x0)


@pytest.mark.parametrize("batch", [1, 3, 20])
def test_every_node_is_visited_equally_often(batch: int) -> None:
    sampler, random = SigmaSampler(nodes(8), "anchor", jitter=0.0), generator()
    drawn = torch.cat([sampler.draw(batch, random) for _ in range(8 * 5)])
    assert set(Counter(drawn.tolist()).values()) == {batch * 5}
    assert sorted(set(drawn.tolist()), reverse=True) == pytest.approx(EIGHT, abs=1e-6)


def test_jitter_is_uniform_and_reflected() -> None:
    drawn = SigmaSampler([1.0], "anchor", jitter=0.02).draw(4000, generator())
    assert drawn.min() >= 0.98 and drawn.max() <= 1
    assert drawn.unique().numel() > 3900  # clamping would put half of them on 1
    assert (drawn < 0.99).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert reflect(torch.tensor([-0.01, 0.4, 1.015])).tolist() == pytest.approx([0.01, 0.4, 0.985])


def test_free_samplers_have_their_distributions() -> None:
    def mean(kind: str) -> float:
        return SigmaSampler(nodes(8), kind, shift=3.0).draw(20000, generator()).mean().item()  # type: ignore[arg-type]

    assert mean("uniform") == pytest.approx(0.5, abs=0.01)
    assert mean("logit_normal") == pytest.approx(0.5, abs=0.01)
    even = (torch.arange(100000) + 0.5) / 100000
    assert mean("shift") == pytest.approx(shift_sigma(even, 3.0).mean().item(), abs=0.01)
    deviation = SigmaSampler(nodes(8), "logit_normal").draw(20000, generator()).std().item()
    assert deviation == pytest.approx(0.2083, abs=0.01)  # of sigmoid(N(0, 1)), by quadrature


def test_mixture_holds_its_share_of_anchors() -> None:
    drawn = SigmaSampler(nodes(8), "mixture", jitter=0.0, anchor_share=0.3).draw(8000, generator())
    at_a_node = (drawn[:, None] - nodes(8).float()).abs().min(1).values < 1e-7
    assert at_a_node.float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("other", ["shift", "uniform", "logit_normal", "shifted_sigmoid"])
def test_a_mixture_without_anchors_is_the_other_sampler(other: str) -> None:
    mixture = SigmaSampler(nodes(8), "mixture", anchor_share=0.0, mixed_with=other)  # type: ignore[arg-type]
    random, same = generator(5), generator(5)
    torch.rand(300, generator=same)  # which of the draws are anchors
    alone = SigmaSampler(nodes(8), other)  # type: ignore[arg-type]
    assert torch.equal(mixture.draw(300, random), alone.draw(300, same))


def test_the_draw_resumes_exactly() -> None:
    sampler, random = SigmaSampler(nodes(8), "mixture"), generator(3)
    for _ in range(5):
        sampler.draw(3, random)
    saved, random_state = json.loads(json.dumps(sampler.state())), random.get_state()
    expected = [sampler.draw(3, random).tolist() for _ in range(9)]
    resumed, random = SigmaSampler(nodes(8), "mixture"), torch.Generator()
    resumed.load(saved)
    random.set_state(random_state)
    assert [resumed.draw(3, random).tolist() for _ in range(9)] == expected


def test_min_snr_of_the_facts() -> None:
    weight = min_snr(nodes(8), 5.0)
    assert weight[:7].tolist() == [1.0] * 7
    assert weight[7].item() == pytest.approx(0.918, abs=5e-4)
    assert min_snr(torch.tensor([0.0, 0.01, 1.0]), 5.0).tolist() == pytest.approx([0.1, 0.1, 1.0])
    assert min_snr(torch.tensor([0.0, 1.0]), 0.0).tolist() == [1.0, 1.0]


def test_euler_is_exact_on_straight_paths_and_stops_when_told() -> None:
    x0, noise = torch.randn(1, 4, generator=generator()), torch.randn(1, 4, generator=generator(1))
    seen = []

    def stop_after_two(step: int, x: torch.Tensor) -> bool:
        seen.append(x)
        return step == 1

    torch.testing.assert_close(euler(lambda x, sigma, i: noise - x0, noise, nodes(8)), x0)
    stopped = euler(lambda x, sigma, i: noise - x0, noise, nodes(8), stop_after_two)
    torch.testing.assert_close(stopped, noisy(x0, noise, torch.tensor([0.9])))
    assert len(seen) == 2


def test_euler_is_what_the_scheduler_does() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=unshifted(8).tolist())
    x = expected = torch.randn(1, 4, generator=generator())
    for timestep in scheduler.timesteps:
        expected = scheduler.step(torch.sin(expected * 3), timestep, expected).prev_sample
    torch.testing.assert_close(euler(lambda x, sigma, i: torch.sin(x * 3), x, nodes(8)), expected)


def test_jitter_in_gaps_and_gaussian() -> None:
    sampler = SigmaSampler([0.9, 0.7, 0.1], "anchor", jitter=0.5, jitter_unit="gap")
    drawn = sampler.draw(3000, generator())
    near = [(drawn - node).abs()[(drawn - node).abs() <= reach + 1e-6] for node, reach in ((0.9, 0.1), (0.1, 0.05))]
    assert sum(len(one) for one in near) == pytest.approx(2000, abs=1)
    assert near[0].max() > 0.09 and near[1].max() > 0.045
    normal = SigmaSampler([0.5], "anchor", jitter=0.02, jitter_kind="gaussian").draw(4000, generator())
    assert normal.std().item() == pytest.approx(0.02, rel=0.05) and (normal - 0.5).abs().max() > 0.05


def test_shifted_sigmoid_is_the_logit_normal_after_the_shift() -> None:
    plain = SigmaSampler(nodes(8), "logit_normal", logit_mean=0.3, logit_deviation=0.5).draw(500, generator())
    shifted = SigmaSampler(nodes(8), "shifted_sigmoid", shift=3.0, logit_mean=0.3, logit_deviation=0.5)
    torch.testing.assert_close(shifted.draw(500, generator()), 3 * plain / (1 + 2 * plain))
    assert plain.logit().mean().item() == pytest.approx(0.3, abs=0.1)


def test_a_focus_draws_lossy_nodes_more_often_and_no_node_never() -> None:
    sampler, random = SigmaSampler([0.9, 0.6, 0.3], "anchor", jitter=0.0, focus=1.0), generator()
    assert sorted(sampler.draw(3, random).tolist()) == pytest.approx([0.3, 0.6, 0.9])  # nothing is known yet
    sampler.saw([0.9, 0.61, 0.3], [2.0, 1.0, 1.0])
    drawn = sampler.draw(7 * 20, random)
    counts = [int(((drawn - node).abs() < 1e-6).sum()) for node in (0.9, 0.6, 0.3)]
    assert counts == [60, 40, 40]  # 3, 2 and 2 cards of a deck
    again, copy = SigmaSampler([0.9, 0.6, 0.3], "anchor", jitter=0.0, focus=1.0), torch.Generator()
    again.load(sampler.state())
    copy.set_state(random.get_state())
    assert torch.equal(again.draw(20, copy), sampler.draw(20, random))
