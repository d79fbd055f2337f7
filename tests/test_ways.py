"""Learning on the model's own ways to pictures: the formula, what is recorded, what a training makes of it."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.test_train_protection import prepared
from tests.training import assert_identical, new_run, stop_at, trained
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainSettings
from zit_app.engine.cache import Cache, Sample, build_cache
from zit_app.engine.frozen import Frozen
from zit_app.engine.refusals import refuse_contradictions
from zit_app.engine.step import draw, picture_term
from zit_app.engine.train import resume
from zit_app.engine.way_files import Way
from zit_app.engine.ways import Ways, asked_ways, record_ways
from zit_app.engine.work import Work
from zit_app.flow.schedule import noisy, velocity
from zit_app.flow.solvers import euler
from zit_app.model.draw import noise_for
from zit_app.model.forward import predict_velocity
from zit_app.model.latents import decode_latents
from zit_app.model.loading import load_transformer, load_vae


def ways_settings(**changes: object) -> TrainSettings:
    settings = small_settings(protection="own_ways", ways=2, caption_dropout=0.0)
    return replace(settings, training=replace(settings.training, **changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Cache:
    return build_cache(make_dataset(tmp_path_factory.mktemp("data")), tiny_model, 64)


def made_up(nodes_N: torch.Tensor, count: int = 1) -> tuple[Ways, Sample, list[np.ndarray]]:
    """Ways of Euler's steps with velocities drawn at random; their states in float64, and last where they end."""
    sample, ways, paths = Sample("0.png", (32, 32), "latents", "text"), [], []
    sigmas = [*nodes_N.tolist(), 0.0]
    for number in range(count):
        generator = np.random.default_rng(number)
        v = generator.normal(size=(len(nodes_N), 4, 4, 4)).astype(np.float16).astype(np.float64)
        path = [generator.normal(size=(4, 4, 4)).astype(np.float16).astype(np.float64)]
        for k in range(len(nodes_N)):
            path.append((path[-1] + (sigmas[k + 1] - sigmas[k]) * v[k]).astype(np.float16).astype(np.float64))
        x, end = np.stack(path[:-1]), path[-1]
        ways.append(Way(*(torch.from_numpy(each).half() for each in (x, v, end))))
        paths.append(np.concatenate([x, v, end[None]]))
    return Ways({("latents", "text"): ways}, nodes_N), sample, paths


def test_a_state_on_a_way_and_what_is_foreseen_there_follow_the_formula() -> None:
    nodes = torch.tensor([1.0, 0.9, 0.6, 0.3])
    ways, sample, paths = made_up(nodes, 3)
    target = torch.randn(12, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = nodes.repeat(3)
    share, chance = torch.rand(2, 12, generator=torch.Generator().manual_seed(1))
    x0, noise = ways.redirected([sample] * 12, target, sigma, share, chance)
    state, v = noisy(x0, noise, sigma).double().numpy(), velocity(x0, noise).double().numpy()
    for row in range(12):
        k, path = row % 4, paths[int(chance[row] * 3)]
        s, moved = float(nodes[k]), target[row].double().numpy() - path[-1]
        wanted = path[k] + (1 - s) * float(share[row]) * moved
        np.testing.assert_allclose(state[row], wanted, atol=1e-5)
        np.testing.assert_allclose(v[row], (wanted - (path[k] - s * path[4 + k] + moved)) / s, atol=2e-5)


def test_who_follows_it_arrives_at_the_picture_from_the_first_node_and_from_any_other() -> None:
    nodes = torch.tensor([1.0, 0.9, 0.6, 0.3])
    ways, sample, (path,) = made_up(nodes)
    target = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    moved = target - torch.from_numpy(path[-1]).float()
    for late in range(4):  # up to this node nothing is learnt, and the untrained model's own way is gone
        x, sigmas = torch.from_numpy(path[0])[None].float(), [*nodes.tolist(), 0.0]
        for k, sigma in enumerate(sigmas[:-1]):
            way = torch.from_numpy(path[k])[None].float()
            at = float(((x - way) * moved).sum() / moved.square().sum())
            share = torch.tensor([at / (1 - sigma) if k else 0.0])
            x0, noise = ways.redirected([sample], target, nodes[k : k + 1], share, torch.zeros(1))
            np.testing.assert_allclose(noisy(x0, noise, nodes[k : k + 1]), x, atol=0.02)  # halves
            step = velocity(x0, noise) if k >= late else torch.from_numpy(path[4 + k])[None].float()
            x = x + (sigmas[k + 1] - sigma) * step
        np.testing.assert_allclose(x, target, atol=0.02)


def test_noise_levels_are_put_to_nodes() -> None:
    ways, _, _ = made_up(torch.tensor([1.0, 0.9, 0.6, 0.3]))
    assert ways.nearest(torch.tensor([0.97, 0.94, 0.7, 0.01])).tolist() == pytest.approx([1.0, 0.9, 0.6, 0.3])


def test_the_ways_are_those_that_the_model_draws_on(cache: Cache, tiny_model: Path) -> None:
    work, _ = prepared(ways_settings(), cache, tiny_model)
    assert work.ways is not None
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    sample = cache.samples[0]
    asked = [one for one in asked_ways(cache.samples, ways_settings().training, [], None) if one.sample == sample]
    assert len(asked) == 2 == len(work.ways.of[sample.latents, sample.text])
    assert len({one.seed for one in asked_ways(cache.samples, ways_settings().training, [], None)}) == 2 * len(
        cache.samples
    )
    for one, way in zip(asked, work.ways.of[sample.latents, sample.text], strict=True):
        caps = [cache.features(sample.text)]

        def v_of(x: torch.Tensor, sigma: torch.Tensor, step: int, caps: list[torch.Tensor] = caps) -> torch.Tensor:
            return predict_velocity(transformer, x, sigma.expand(1), caps)

        noise = noise_for([one.seed], transformer.in_channels, sample.size)
        with torch.no_grad():
            end = euler(v_of, noise, work.nodes_N)
        assert torch.equal(way.x_NCHW[0], noise[0].half())
        torch.testing.assert_close(way.x0_CHW.float(), end[0], atol=2e-3, rtol=2e-3)


def test_on_a_way_that_ends_at_the_picture_an_untrained_model_has_nothing_to_learn(
    cache: Cache, tiny_model: Path
) -> None:
    """The learner is the untrained model yet: where δ = 0 its loss is only what halves leave of it."""
    settings = ways_settings()
    work, state = prepared(settings, cache, tiny_model)
    for name, weight in state.transformer.named_parameters():
        if ".lora_B." in name:
            weight.data.zero_()
    assert work.ways is not None
    begun = state.generator.get_state()
    summed, _ = picture_term(work, state, [0, 0], draw(work, state, [0, 0]))
    ended = {key: [replace(way, x0_CHW=normal(work, key)) for way in ways] for key, ways in work.ways.of.items()}
    state.generator.set_state(begun)
    still, _ = picture_term(replace(work, ways=replace(work.ways, of=ended)), state, [0, 0], draw(work, state, [0, 0]))
    assert still < 1e-4 * summed


def normal(work: Work, key: tuple[str, str]) -> torch.Tensor:
    """The picture that is learnt, as if the way ended there."""
    sample = next(one for one in work.cache.samples if (one.latents, one.text) == key)
    return work.load([sample], [False])[0][0]


def beside_own_pictures(**changes: object) -> TrainSettings:
    settings = ways_settings(**{"max_steps": 4, "save_every": 2, "tether_unrelated": 1.0, **changes})
    return replace(settings, dataset=replace(settings.dataset, own_pictures=2, own_colors=0, trigger_word="tok"))


def test_a_training_goes_on_as_if_it_had_not_been_interrupted(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    whole, cut = (new_run(tmp_path / name, beside_own_pictures(), dataset, tiny_model) for name in ("whole", "cut"))
    assert resume(whole, Progress(whole)) is not None
    assert resume(cut, stop_at(cut, 2)) is None
    kept = {path.name for path in (cut.folder / "ways").iterdir()}
    assert {"own_000000.safetensors", "own_000001.safetensors"} < kept
    assert len(kept) == 2 + 2 * len(list(dataset.glob("*.png")))
    assert resume(Run.open(cut.folder), Progress(cut)) is not None
    assert_identical(trained(whole, 4), trained(cut, 4))
    assert not (cut.folder / "ways").exists()


def test_a_way_that_was_kept_is_not_drawn_again_unless_it_is_damaged(cache: Cache, tmp_path: Path) -> None:
    ways, sample, (path,) = made_up(torch.tensor([1.0, 0.9, 0.6, 0.3]))
    own = replace(sample, name="own_pictures/000003.png")
    (asked,) = asked_ways([own], ways_settings().training, ["", "", "", cache.empty_text], tmp_path)
    assert (asked.text, asked.seed) == (cache.empty_text, 3)
    drawn: list[Sequence[int]] = []

    def watch(caps: list[torch.Tensor], size: tuple[int, int], seeds: Sequence[int], stage: str) -> Frozen:
        drawn.append(seeds)
        x, v, end = torch.from_numpy(path[:4]), torch.from_numpy(path[4:8]), torch.from_numpy(path[8])
        return Frozen(caps, list(seeds), ways.sigma_N, x[None].float(), v[None].float(), end[None].float())

    for times, damaged in ((1, False), (1, False), (2, True), (2, False)):
        if damaged:
            asked.file.write_bytes(asked.file.read_bytes()[:50])  # type: ignore[union-attr]
        (way,) = record_ways([asked], cache, watch, ways.sigma_N, Progress()).of["latents", "text"]
        assert len(drawn) == times
        (same,) = ways.of["latents", "text"]
        assert torch.equal(way.x_NCHW, same.x_NCHW) and torch.equal(way.v_NCHW, same.v_NCHW)
    states = torch.from_numpy(np.concatenate([path[:4], path[8:]]))
    along = Way.along(states, ways.sigma_N)
    torch.testing.assert_close(
        along.v_NCHW.double(), torch.from_numpy(path[4:8]), atol=0.06, rtol=0.01
    )  # halves' steps


def test_asked_to_stop_while_the_captions_are_drawn_it_stops_then_and_goes_on_later(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zit_app.engine.ways.TOGETHER", 1)
    dataset = make_dataset(tmp_path / "data")
    plain = ways_settings(max_steps=2, save_every=2, tether_unrelated=0.0)
    whole, cut = (new_run(tmp_path / name, plain, dataset, tiny_model) for name in ("whole", "cut"))

    class Impatient(Progress):
        def stage(self, text: str) -> None:
            super().stage(text)
            if "part 2 of" in text:
                cut.request(stop=True)

    assert resume(whole, Progress(whole)) is not None
    assert resume(cut, Impatient(cut)) is None
    assert cut.state() == "stopped" and len(list((cut.folder / "ways").iterdir())) == 2
    assert resume(Run.open(cut.folder), Progress(cut)) is not None
    assert_identical(trained(whole, 2), trained(cut, 2))


def test_own_pictures_are_learnt_on_the_ways_that_they_were_drawn_on(tmp_path: Path, tiny_model: Path) -> None:
    """From their prompts as they were drawn, without the trigger word: the way ends at the very picture."""
    settings = beside_own_pictures(max_steps=1)
    run = new_run(tmp_path / "run", settings, make_dataset(tmp_path / "data"), tiny_model)
    assert resume(run, Progress(run)) is not None
    copy = run.folder / "dataset" / "data"
    cache = build_cache(copy, tiny_model, 64, trigger_word="tok")
    work, _ = prepared(settings, cache, tiny_model)
    assert work.ways is not None
    vae = load_vae(tiny_model, torch.device("cpu"), torch.float32)
    own = [sample for sample in work.cache.samples if sample.name.startswith("own_pictures")]
    assert len(own) == 2
    for sample in own:
        (way,) = work.ways.of[sample.latents, sample.text]
        drawn = decode_latents(vae, way.x0_CHW[None].float())[0].numpy().astype(int)
        assert np.abs(drawn - np.asarray(Image.open(copy / sample.name))).mean() < 1


def test_a_folder_of_that_name_in_a_data_set_is_the_persons(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    (dataset / "own_pictures").mkdir()
    for file in list(dataset.glob("0.*")):
        file.rename(dataset / "own_pictures" / f"holiday{file.suffix}")
    work, _ = prepared(ways_settings(), build_cache(dataset, tiny_model, 64), tiny_model)
    assert work.ways is not None
    assert {len(work.ways.of[one.latents, one.text]) for one in work.cache.samples} == {2}


def test_what_cannot_be_learnt_so_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    dataset, settings = make_dataset(tmp_path / "data"), beside_own_pictures()
    guided = shutil.copytree(tiny_model, tmp_path / "guided")
    (guided / "flavour.json").write_text('{"zit_flavour": {"guidance": 3.0}}', encoding="utf-8")
    flipped = make_dataset(tmp_path / "flipped")
    (flipped / "dataset.toml").write_text("[dataset]\nflip = true\n", encoding="utf-8")
    sizes = replace(settings, dataset=replace(settings.dataset, further_resolutions=(32,)))
    drawn = replace(settings, dataset=replace(settings.dataset, own_pictures=0, drawn=2))
    refused = (
        (settings, dataset, guided, "few-step models"),
        (settings, flipped, tiny_model, "drawn once"),
        (sizes, dataset, tiny_model, "drawn once"),
        (drawn, dataset, tiny_model, "nothing to learn"),
    )
    for asked, pictures, model, told in refused:
        with pytest.raises(ZitError, match=told):
            refuse_contradictions(asked, pictures, model, torch.device("cpu"))
