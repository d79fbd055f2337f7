"""What keeps Turbo a Turbo: tether on unrelated prompts, training adapter, replayed pictures; and what is refused."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.small import small_settings
from tests.test_cache import make_dataset
from tests.tiny import make_tiny_model
from tests.training import assert_identical, new_run, stop_at, trained
from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.models import find_model
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import AcrfSettings, TrainJob, TrainSettings, job_toml
from zit_app.data.prompts import read_prompts, shipped_prompts, unrelated
from zit_app.engine import aids
from zit_app.engine.cache import Cache, build_cache
from zit_app.engine.checkpoints import TrainState
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare
from zit_app.engine.previews import draw_previews
from zit_app.engine.shipped import as_saved, write_adapter
from zit_app.engine.step import batch_terms
from zit_app.engine.train import resume
from zit_app.engine.work import Work
from zit_app.model.adapter_files import read_adapter, save_adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import adapter_disabled, lora_state
from zit_app.model.forward import predict_velocity
from zit_app.model.loading import load_transformer


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Cache:
    return build_cache(make_dataset(tmp_path_factory.mktemp("data")), tiny_model, 64)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A training adapter that changes every layer visibly."""
    generator = torch.Generator().manual_seed(9)
    transformer = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    tensors = {}
    for i in range(2):
        weight = transformer.get_submodule(f"layers.{i}.attention.to_q").weight
        for half, shape in (("A", (4, weight.shape[1])), ("B", (weight.shape[0], 4))):
            name = f"layers.{i}.attention.to_q.lora_{half}.weight"
            tensors[name] = torch.randn(shape, generator=generator)
    file = tmp_path_factory.mktemp("guard") / "guard.safetensors"
    save_adapter(file, tensors, 4, 4.0, {})
    return file


@pytest.fixture(scope="module")
def undistilled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The same model with another transformer."""
    folder = shutil.copytree(tiny_model, tmp_path_factory.mktemp("undistilled") / "model")
    other = make_tiny_model(tmp_path_factory.mktemp("other"), seed=7)
    shutil.rmtree(folder / "transformer")
    shutil.copytree(other / "transformer", folder / "transformer")
    return folder


def prepared(settings: TrainSettings, cache: Cache, model: Path) -> tuple[Work, TrainState]:
    work, state = prepare(settings, "", cache, model, new_accelerator("fp32"), Progress())
    generator = torch.Generator().manual_seed(4)
    for name, weight in lora_state(state.transformer).items():
        if ".lora_B." in name:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return work, state


def some_input(work: Work) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.75]), [work.cache.features(work.cache.samples[0].text)]


def test_the_untrained_model_is_recorded_on_its_own_way(cache: Cache, tiny_model: Path) -> None:
    work, state = prepared(small_settings(protection="tether"), cache, tiny_model)
    frozen = work.frozen
    assert frozen is not None and frozen.x_MNCHW.shape[:2] == (16, 8)
    steps = -torch.cat([frozen.sigma_N, torch.zeros(1)]).diff()
    for m in (0, 7):
        x = frozen.x_MNCHW[m, 0]
        for n in range(8):
            torch.testing.assert_close(frozen.x_MNCHW[m, n], x)
            x = x - steps[n] * frozen.v_MNCHW[m, n]
        torch.testing.assert_close(frozen.x0_MCHW[m], x)
    with torch.no_grad(), adapter_disabled(state.transformer):
        v = predict_velocity(state.transformer, frozen.x_MNCHW[3, 2][None], frozen.sigma_N[2:3], [frozen.caps[3]])
    torch.testing.assert_close(v[0], frozen.v_MNCHW[3, 2], atol=1e-5, rtol=1e-4)


def test_terms_of_a_batch_and_their_gradients(cache: Cache, tiny_model: Path) -> None:
    acrf = AcrfSettings(curvature=1.0, curvature_every=2, curvature_start=0.0)
    settings = small_settings(acrf, protection="tether", tether=1.0, tether_unrelated=2.0, replay=1.0)
    work, state = prepared(settings, cache, tiny_model)
    sizes = []
    for summed, seen in batch_terms(work, state, [0, 0], number=4):
        summed.backward()
        sizes.append(
            sum(weight.grad.norm().item() for weight in state.transformer.parameters() if weight.requires_grad)
        )
        assert seen.shape in ((2, 2), (2, 0))
    assert len(sizes) == 4 and len(set(sizes)) == 4  # pictures, states, replay, curvature: each adds to the gradients
    assert len(list(batch_terms(work, state, [0, 0], number=5))) == 3  # curvature in every second batch only


def test_the_training_adapter_acts_in_training_and_nowhere_else(
    cache: Cache, tiny_model: Path, guard: Path, tmp_path: Path
) -> None:
    plain_work, plain = prepared(small_settings(), cache, tiny_model)
    settings = small_settings(protection="adapter", protection_adapter=str(guard))
    work, state = prepared(settings, cache, tiny_model)
    inputs = some_input(work)
    with torch.no_grad():
        bare, guarded = (predict_velocity(one.transformer, *inputs) for one in (plain, state))
        with state.unguarded():
            torch.testing.assert_close(predict_velocity(state.transformer, *inputs), bare)
        assert (guarded - bare).abs().mean() > 0.01
        with as_saved(work, state):
            saved = predict_velocity(state.transformer, *inputs)
        torch.testing.assert_close(saved, bare, atol=0.02, rtol=0.02)  # the file is bf16
        torch.testing.assert_close(predict_velocity(state.transformer, *inputs), guarded)  # and on again
    write_adapter(plain_work, plain, tmp_path / "plain.safetensors")
    write_adapter(work, state, tmp_path / "guarded.safetensors")
    a, b = (read_adapter(tmp_path / f"{name}.safetensors").modules for name in ("plain", "guarded"))
    assert a.keys() == b.keys() and all(torch.equal(a[name].delta(), b[name].delta()) for name in a)


def test_learning_on_the_undistilled_weights_is_training_that_model_and_using_the_other(
    cache: Cache, tiny_model: Path, undistilled: Path, tmp_path: Path
) -> None:
    aided = small_settings(protection="base", protection_base=str(undistilled), max_steps=3, health_every=1)
    runs = {
        "aided": new_run(tmp_path / "aided", aided, cache.dataset, tiny_model),
        "itself": new_run(tmp_path / "itself", small_settings(max_steps=3), cache.dataset, undistilled),
    }
    for run in runs.values():
        assert resume(run, Progress(run)) is not None
    aided_state, itself = (trained(run, 3) for run in runs.values())
    weights = [key for key in itself if key.startswith("lora")]
    assert weights and all(torch.equal(aided_state[key], itself[key]) for key in weights)
    measured = [one for one in runs["aided"].metrics() if "health" in one]
    assert len(measured) == 3  # each took the weights off and put them on again, and the training did not notice

    tethered = small_settings(protection="base+tether", protection_base=str(undistilled), health_every=1)
    work, state = prepared(tethered, cache, tiny_model)
    alone, _ = prepared(small_settings(protection="tether"), cache, undistilled)
    assert work.held_to is not None and alone.held_to is not None and work.frozen is not None
    assert torch.equal(work.held_to.v_MNCHW, alone.held_to.v_MNCHW)  # the tether holds to the model that learns
    assert not torch.equal(work.frozen.v_MNCHW, work.held_to.v_MNCHW)  # health is measured on the one to be used
    inputs = some_input(work)
    with torch.no_grad(), adapter_disabled(state.transformer):
        for folder, context in ((undistilled, None), (tiny_model, state.unguarded()), (undistilled, None)):
            fresh = load_transformer(folder, torch.device("cpu"), torch.float32)
            with context or nullcontext():
                assert torch.equal(predict_velocity(state.transformer, *inputs), predict_velocity(fresh, *inputs))


def test_what_is_saved_is_what_previews_show_to_the_bit(cache: Cache, tiny_model: Path, tmp_path: Path) -> None:
    work, state = prepared(small_settings(), cache, tiny_model)
    file = tmp_path / "adapter.safetensors"
    write_adapter(work, state, file)
    fresh = load_transformer(tiny_model, torch.device("cpu"), torch.float32)
    apply_adapters(fresh, [(read_adapter(file), 1.0, 1, 0)])
    inputs = some_input(work)
    with as_saved(work, state), torch.no_grad():
        assert torch.equal(predict_velocity(state.transformer, *inputs), predict_velocity(fresh, *inputs))


def test_a_preview_is_the_picture_that_generate_draws(
    home: Path, cache: Cache, tiny_model: Path, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    from zit_app.core.generate_settings import GenerateSettings, LoraUse
    from zit_app.engine.generate import generate

    work, state = prepared(small_settings(), cache, tiny_model)
    preview = draw_previews(work, state, tmp_path)[0]
    file = tmp_path / "adapter.safetensors"
    write_adapter(work, state, file)
    name = cache.samples[0].name
    prompt = (cache.dataset / name).with_suffix(".txt").read_text(encoding="utf-8").strip()
    width, height = cache.samples[0].size
    settings = GenerateSettings(prompts=(prompt,), seed=0, width=width, height=height, loras=(LoraUse(str(file)),))
    drawn = generate(settings, tiny_model, tmp_path / "out.png")[0]
    assert np.array_equal(np.asarray(Image.open(preview)), np.asarray(Image.open(drawn)))


def test_protections_change_the_training_and_survive_an_interruption(
    cache: Cache, tiny_model: Path, guard: Path, undistilled: Path, tmp_path: Path
) -> None:
    """Each of these settings changes the outcome of two steps; stopping and going on changes none."""
    base = small_settings(max_steps=2, save_every=0, tether=5.0, tether_unrelated=0.0)

    def state_of(name: str, settings: TrainSettings) -> dict[str, torch.Tensor]:
        run = new_run(tmp_path / name, settings, cache.dataset, tiny_model)
        assert resume(run, Progress(run)) is not None
        return trained(run, 2)

    def changed(**training: object) -> TrainSettings:
        return replace(base, training=replace(base.training, **training))

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a green bottle\n一只猫\n", encoding="utf-8")
    everything = changed(
        protection="both", protection_adapter=str(guard), replay=0.5, tether_unrelated=1.0, ema_decay=0.9
    )
    null_space = changed(protection="null_space", ema_decay=0.9)
    variants = {
        "none": base,
        "tether": changed(protection="tether"),
        "unrelated": changed(protection="tether", tether_unrelated=1.0),
        "prompts": changed(protection="tether", tether_unrelated=1.0, unrelated_prompts=str(prompts)),
        "adapter": changed(protection="adapter", protection_adapter=str(guard)),
        "base": changed(protection="base", protection_base=str(undistilled)),
        "base and tether": changed(
            protection="base+tether", protection_base=str(undistilled), tether_unrelated=1.0, replay=0.5
        ),
        "null space": null_space,
        "null space, less": changed(protection="null_space", null_space=0.3),
        "replay": changed(replay=1.0),
        "everything": everything,
    }
    states = {name: state_of(name, settings) for name, settings in variants.items()}
    names = list(states)
    for i, name in enumerate(names):
        for other in names[:i]:
            keys = [key for key in states[name] if key.startswith("lora")]
            assert any(not torch.equal(states[name][key], states[other][key]) for key in keys), (name, other)

    for name in ("everything", "null space"):
        run = new_run(tmp_path / f"halves of {name}", variants[name], cache.dataset, tiny_model)
        assert resume(run, stop_at(run, 1)) is None
        again = Run.open(run.folder)
        assert resume(again, Progress(again)) is not None
        assert_identical(trained(run, 2), states[name])


def test_a_resume_with_other_unrelated_prompts_says_so(
    cache: Cache, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only where the training learns from them: the health curves do not change what is trained."""
    prompts = tmp_path / "prompts.txt"
    for protection, changes_training in (("null_space", True), ("none", False)):
        base = small_settings(max_steps=3, save_every=0)
        training = replace(
            base.training, protection=protection, unrelated_prompts=str(prompts), unrelated_count=2, health_every=2
        )
        prompts.write_text("a green bottle\n一只猫\n", encoding="utf-8")
        run = new_run(tmp_path / protection, replace(base, training=training), cache.dataset, tiny_model)
        assert resume(run, stop_at(run, 1)) is None
        again = Run.open(run.folder)
        assert resume(again, stop_at(again, 2)) is None
        assert "changed since" not in capsys.readouterr().err
        prompts.write_text("a blue bottle\n一只狗\n", encoding="utf-8")
        again = Run.open(run.folder)
        assert resume(again, Progress(again)) is not None
        assert ("unrelated prompts changed since" in capsys.readouterr().err) == changes_training


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"protection": "adapter"}, "needs the file of a training adapter"),
        ({"protection": "both", "protection_adapter": "/nowhere.safetensors"}, "nowhere"),
        ({"protection": "base"}, "not known what .* was distilled from"),
        ({"protection": "base", "protection_base": "nowhere"}, "no model 'nowhere'"),
        ({"health_every": 1, "unrelated_prompts": "/nowhere.txt"}, "nowhere.txt cannot be read"),
        ({"optimizer": "adamw8bit"}, "needs a graphics card"),
        ({"tracker": "comet_ml"}, "comet-ml is not installed"),
    ],
)
def test_contradictions_are_refused_before_the_first_step(
    cache: Cache, tiny_model: Path, tmp_path: Path, training: dict[str, object], message: str
) -> None:
    run = new_run(tmp_path / "run", small_settings(**training), cache.dataset, tiny_model)
    with pytest.raises(ZitError, match=message) as caught:
        resume(run, Progress(run))
    assert caught.value.remedy and run.state() == "failed" and not run.metrics()


def test_looking_after_health_does_not_move_the_null_space(cache: Cache, tiny_model: Path) -> None:
    """Its many looks at the pictures are no inputs of drawing."""
    states = [
        prepare(small_settings(protection="null_space", health_every=every), "", cache, tiny_model,
                new_accelerator("fp32"), Progress())[1]
        for every in (0, 1)
    ]  # fmt: skip
    a, b = (lora_state(state.transformer) for state in states)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_learning_in_a_null_space_is_for_loras(cache: Cache, tiny_model: Path, tmp_path: Path) -> None:
    settings = small_settings(protection="null_space")
    settings = replace(settings, lora=replace(settings.lora, network_type="lokr"))
    run = new_run(tmp_path / "run", settings, cache.dataset, tiny_model)
    with pytest.raises(ZitError, match="not with lokr"):
        resume(run, Progress(run))


def test_an_undistilled_model_of_another_size_is_refused(cache: Cache, tiny_model: Path, tmp_path: Path) -> None:
    wider = make_tiny_model(tmp_path / "wider", n_layers=3)
    settings = small_settings(protection="base", protection_base=str(wider))
    run = new_run(tmp_path / "run", settings, cache.dataset, tiny_model)
    with pytest.raises(ZitError, match="other layers"):
        resume(run, Progress(run))


def test_the_embedded_models_know_each_other(home: Path) -> None:
    settings = small_settings(protection="base")
    assert aids.undistilled(settings, find_model("pocket")) == find_model("pocket-base")
    assert aids.undistilled(small_settings(), find_model("pocket")) is None
    with pytest.raises(ZitError, match="not distilled"):
        aids.undistilled(settings, find_model("pocket-base"))


def test_the_best_protection_is_settled_when_a_run_is_made(
    home: Path, tiny_model: Path, undistilled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settled_for(model: str, **training: Any) -> str:
        return job_toml(small_settings(protection="auto", **training), TrainJob(model, "pictures"))

    assert 'protection = "base"' in settled_for("pocket")
    assert 'protection = "none"' in settled_for("pocket-base")  # it has no few steps to lose
    assert 'protection = "own_ways"' in settled_for(str(tiny_model))  # nobody knows what it was distilled from
    assert 'protection = "base"' in settled_for(str(tiny_model), protection_base=str(undistilled))
    alone = small_settings(protection="auto")
    alone = replace(alone, dataset=replace(alone.dataset, drawn=2))  # its own pictures and nothing else
    assert 'protection = "none"' in job_toml(alone, TrainJob(str(tiny_model), ""))
    turbo = paths.models() / "Z-Image-Turbo"
    shutil.copytree(tiny_model, turbo)
    assert 'protection = "own_ways"' in settled_for("turbo")
    shutil.copytree(undistilled, paths.models() / "Z-Image")
    assert 'protection = "base"' in settled_for("turbo")
    monkeypatch.setattr("zit_app.core.undistilled.memory_bytes", lambda: 1000)  # too little for a second set of weights
    assert 'protection = "own_ways"' in settled_for("turbo")
    with pytest.raises(ZitError, match="no model 'nowhere'"):
        settled_for("nowhere")


def test_the_base_distance_is_settled_by_the_protection(home: Path, tiny_model: Path) -> None:
    def settled_for(base: str, protection: str, model: str = str(tiny_model)) -> str:
        plain = small_settings(protection=protection)
        return job_toml(replace(plain, acrf=replace(plain.acrf, base=base)), TrainJob(model, "pictures"))

    assert 'base = "charbonnier"' in settled_for("auto", "auto") and 'base = "mse"' in settled_for("mse", "auto")
    assert 'base = "charbonnier"' in settled_for("auto", "own_ways") and 'base = "mse"' in settled_for("auto", "none")
    assert 'base = "mse"' in settled_for("auto", "auto", "pocket")  # learns on pocket-base's weights


def test_an_adapter_of_another_model_size_is_refused(cache: Cache, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "large.safetensors"
    tensors = {
        f"layers.0.attention.to_q.lora_{h}.weight": torch.ones(s) for h, s in (("A", (4, 3840)), ("B", (3840, 4)))
    }
    save_adapter(file, tensors, 4, 4.0, {})
    settings = small_settings(protection="adapter", protection_adapter=str(file))
    run = new_run(tmp_path / "run", settings, cache.dataset, tiny_model)
    with pytest.raises(ZitError, match="fits this model"):
        resume(run, Progress(run))


def test_unrelated_prompts_share_no_telling_word_with_the_captions() -> None:
    prompts = [
        "flat emoji, red apple",
        "flat emoji, blue whale",
        "flat emoji, green pear",
        "扁平表情，红苹果",
        "flat emoji, owl",
    ]
    assert unrelated(prompts, ["flat emoji, an apple"]) == [prompts[1], prompts[2], prompts[3], prompts[4]]
    assert unrelated(prompts, ["红苹果和梨", "owl"]) == prompts[:3]
    assert unrelated(["a dog"], ["dog"]) == ["a dog"]  # nothing else is left
    lake = "a lake with an island behind its trees"
    apart = ["a trumpet", "a rusty gate", "an old harbour", "snow"]  # words of a quarter of the prompts tell nothing
    assert unrelated([lake, *apart], ["a woman with a dog behind its fence"]) == [lake, *apart]
    assert unrelated([lake, *apart], ["a woman with a dog behind a lake"]) == apart
    own = ["flat emoji, red apple", "sticker, an owl", "photo of snow"]  # what the model draws itself, in two ways
    assert unrelated(prompts, ["a dog"], own) == prompts[1:]
    assert unrelated(prompts, ["owl"], prompts[:4]) == prompts[:4]  # nothing but what own pictures show is left


@pytest.mark.parametrize("pixels", [128, 1024])
def test_shipped_prompts_are_enough_in_both_languages(pixels: int) -> None:
    prompts = read_prompts(shipped_prompts(pixels))
    assert len(prompts) >= 24 and len(set(prompts)) == len(prompts)
    assert 4 <= sum(any("\u4e00" <= letter <= "\u9fff" for letter in prompt) for prompt in prompts) <= len(prompts) // 2


def test_the_adapter_preset_draws_its_own_pictures_and_builds_a_training_adapter(
    home: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from zit_app.cli import main
    from zit_app.core.train_settings import load_job

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a green bottle\n一只猫\n", encoding="utf-8")
    assert main(["train", "--preset", "adapter", "--model", str(tiny_model)]) == 2  # it needs prompts
    small = ["dataset.drawn=3", "dataset.resolution=64", "training.max_steps=2", "training.health_every=0"]
    words = ["train", "--preset", "adapter", "--model", str(tiny_model), "--prompts", str(prompts)]
    words += [part for one in small for part in ("--set", one)]
    (tmp_path / "run/pictures").mkdir(parents=True)
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    folder = tmp_path / "run" / "pictures"
    texts = [(folder / f"{i:06d}.txt").read_text(encoding="utf-8").strip() for i in range(3)]
    assert texts == ["a green bottle", "一只猫", "a green bottle"]
    assert len(list(folder.glob("*.png"))) == 3
    settings, job = load_job(tmp_path / "run" / "settings.toml")
    assert job.dataset == "" and settings.training.learning_rate == 1e-5 and settings.acrf.sampler == "shift"
    assert len(read_adapter(tmp_path / "run" / "adapter.safetensors").modules) == 14
