"""No dead settings: each of them changes weights, figures or files of a small training."""

import typing
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.test_cache import make_dataset
from tests.training import made_lora
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.settings import describe
from zit_app.core.train_settings import (
    AcrfSettings,
    DatasetSettings,
    LoraSettings,
    TrainingSettings,
    TrainJob,
    TrainSettings,
    job_toml,
)
from zit_app.engine.cache import build_cache
from zit_app.engine.checkpoints import latest_checkpoint
from zit_app.engine.parallel import new_accelerator
from zit_app.engine.preparation import prepare
from zit_app.engine.step import batch_terms
from zit_app.engine.train import resume

BASE = TrainSettings(
    AcrfSettings(),
    LoraSettings(network_dim=2, network_alpha=2.0),
    TrainingSettings(max_steps=2, gradient_accumulation_steps=1, learning_rate=1e-2, lr_warmup_steps=0, health_every=0),
    DatasetSettings(resolution=64, batch_size=2),
)
CLEAN = {"loss_mode": "unified", "caption_dropout": 0.0}
BENT = {"curvature": 5.0, "curvature_every": 1, "curvature_start": 0.0, "sampler": "anchor"}
TETHERED = {"protection": "tether", "tether": 5.0, "tether_unrelated": 0.0, "sampler": "anchor"}
MANY = {"health_every": 1, "held_out": 0.05, "batch_size": 1}  # on forty pictures
MASKED = {"mask_loss": True, "sampler": "anchor"}
LOKR = {"network_type": "lokr", "lokr_factor": 4, "lokr_full_rank": False}
# Each setting: another value, and what must hold besides for it to matter.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    # [acrf]
    "turbo_steps": (4, {"sampler": "anchor"}),
    "shift": (1.0, {}),
    "jitter_scale": (0.0, {"sampler": "anchor"}),
    "jitter_kind": ("gaussian", {"sampler": "anchor"}),
    "jitter_unit": ("gap", {"sampler": "anchor"}),
    "sampler": ("uniform", {}),
    "anchor_share": (0.0, {}),
    "mixture_with": ("logit_normal", {}),
    "logit_mean": (1.0, {"sampler": "logit_normal"}),
    "logit_deviation": (0.5, {"sampler": "shifted_sigmoid"}),
    "node_focus": (4.0, {"sampler": "anchor", "max_steps": 10}),
    "anchor_source": ("report", {"sampler": "anchor"}),
    "snr_gamma": (0.01, {}),
    "loss_mode": ("frequency", {}),
    "base": ("l1", {}),
    "lambda_base": (0.5, {"lambda_cos": 0.5}),
    "lambda_cos": (0.5, {}),
    "lambda_fft": (0.5, {}),
    "alpha_hf": (0.2, CLEAN),
    "beta_lf": (0.9, CLEAN),
    "lambda_struct": (0.1, CLEAN),
    "lambda_light": (0.1, CLEAN),
    "lambda_color": (0.9, CLEAN),
    "lambda_tex": (0.1, CLEAN),
    "pool_factor": (2, CLEAN),
    "split": ("fourier", CLEAN),
    "lab": ("fitted", CLEAN),
    "lambda_gram": (1.0, {}),
    "lambda_feat": (1.0, {}),
    "clean_sigma_max": (0.5, CLEAN),
    "curvature": (0.0, BENT),
    "curvature_every": (2, BENT | {"max_steps": 3}),
    "curvature_start": (1.0, BENT),
    # [lora]
    "network_dim": (3, {}),
    "network_alpha": (8.0, {}),
    "targets": ("attention", {}),
    "network_type": ("dora", {}),
    "layers": ("1", {}),
    "extra_targets": ("noise_refiner.0.attention.to_q", {}),
    "rslora": (True, {}),
    "lokr_factor": (8, LOKR),
    "lokr_full_rank": (True, LOKR),
    "start_from": ("LORA", {}),
    # [training]
    "optimizer": ("adafactor", {}),
    "learning_rate": (1e-3, {}),
    "minimum_learning_rate": (5e-3, {"max_steps": 3}),
    "lr_scheduler": ("constant", {"max_steps": 3}),
    "lr_warmup_steps": (2, {"max_steps": 20}),
    "lr_cycles": (2, {"max_steps": 4}),
    "weight_decay": (0.5, {}),
    "max_grad_norm": (0.001, {}),
    "gradient_accumulation_steps": (2, {}),
    "num_train_epochs": (1, {"max_steps": 0, "num_train_epochs": 2}),
    "max_steps": (1, {}),
    "save_every": (1, {}),
    "sample_every": (1, {}),
    "sample_prompts": (("a boat",), {"sample_every": 1}),
    "keep_last": (1, {"save_every": 1}),
    "keep_best": (False, MANY),
    "ema_decay": (0.9, {}),
    "held_out": (0.0, MANY),
    "health_every": (1, {}),
    "seed": (1, {}),
    "compute": ("bf16", {}),
    "caption_dropout": (1.0, {}),
    "picture_focus": (0.9, {"max_steps": 4}),
    "concept_focus": (0.9, {"max_steps": 4}),
    "protection": ("none", TETHERED),
    "tether": (50.0, TETHERED),
    "tether_pictures": (False, TETHERED | {"tether_unrelated": 1.0}),
    "tether_unrelated": (1.0, TETHERED),
    "null_space": (0.2, {"protection": "null_space"}),
    "ways": (3, {"protection": "own_ways"}),
    "replay": (1.0, {}),
    "unrelated_prompts": ("PROMPTS", {"replay": 1.0}),
    "unrelated_count": (3, {"replay": 1.0}),
    # [dataset]
    "resolution": (96, {}),
    "further_resolutions": ((32,), {}),
    "batch_size": (1, {}),
    "enable_bucket": (False, {}),
    "max_sequence_length": (16, {}),
    "repeats": (3, {"max_steps": 0, "num_train_epochs": 1}),
    "trigger_word": ("tok", {}),
    "mask_loss": (False, MASKED),
    "mask_outside": (0.9, MASKED),
    "drawn": (2, {}),
    "own_pictures": (2, {}),
    "own_colors": (2, {"own_pictures": 2}),
    "own_prompts": ("PROMPTS", {"own_pictures": 2}),
}
ELSEWHERE = {
    "cards": "test_train_parallel",
    "tracker": "test_train_protection",
    "protection_adapter": "test_train_protection",
    "protection_base": "test_train_protection",
    "gradient_checkpointing": "below",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Three pictures of two concepts with masks, and forty."""
    few = make_dataset(tmp_path_factory.mktemp("few"))
    (few / "things").mkdir()
    for name in ("2.png", "2.txt"):
        (few / name).rename(few / "things" / name)
    (few / "dataset.toml").write_text('[dataset]\nmasks = "masks"\n', encoding="utf-8")
    (few / "masks" / "things").mkdir(parents=True)
    for picture in list(few.rglob("*.png")):
        size = Image.open(picture).size
        mask = Image.new("L", size, 0)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        mask.save(few / "masks" / picture.relative_to(few))
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text("a green bottle\n一只猫\n", encoding="utf-8")
    forty = make_dataset(tmp_path_factory.mktemp("forty"), ((64, 64),) * 40)
    lora = made_lora(tiny_model, tmp_path_factory.mktemp("loras") / "lora.safetensors", rank=2)
    runs = tmp_path_factory.mktemp("runs")
    return {"few": few, "forty": forty, "prompts": prompts, "lora": lora, "runs": runs}


def changed(settings: TrainSettings, values: dict[str, Any]) -> TrainSettings:
    tables = {info.name: table for table in vars(settings) for info in describe(type(getattr(settings, table)))}
    for name, value in values.items():
        table = tables[name]
        settings = replace(settings, **{table: replace(getattr(settings, table), **{name: value})})
    return settings


@pytest.fixture(scope="module")
def outcome(folders: dict[str, Path], tiny_model: Path) -> typing.Callable[[TrainSettings], Any]:
    """What a training leaves: weights, figures without times, names of files. Each is made once."""

    @cache
    def made(settings: TrainSettings) -> Any:
        many = settings.training.health_every and settings.dataset.batch_size == MANY["batch_size"]
        dataset = folders["forty" if many else "few"]
        folder = folders["runs"] / f"{len(list(folders['runs'].iterdir()))}"
        job = TrainJob(str(tiny_model), str(dataset), "", str(folders["prompts"]))
        run = Run.create("train", "one", job_toml(settings, job), folder)
        assert resume(run, Progress(run)) is not None
        figures = [{key: value for key, value in line.items() if key != "seconds"} for line in run.metrics()]
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        checkpoint = latest_checkpoint(folder)
        assert checkpoint is not None
        return figures, files, (checkpoint / "lora.safetensors").read_bytes()  # fp32, without the settings

    return made


def test_every_setting_is_looked_at() -> None:
    tables = typing.get_type_hints(TrainSettings).values()
    assert {info.name for table in tables for info in describe(table)} == CHANGES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_the_setting_changes_something(
    name: str, outcome: typing.Callable[[TrainSettings], Any], folders: dict[str, Path]
) -> None:
    value, context = CHANGES[name]
    value = {"PROMPTS": str(folders["prompts"]), "LORA": str(folders["lora"])}.get(str(value), value)
    before = changed(BASE, context)
    after = changed(before, {name: value})
    assert after != before
    assert outcome(after) != outcome(before)


def test_gradient_checkpointing_keeps_less_in_memory(folders: dict[str, Path], tiny_model: Path) -> None:
    kept, norms = [], []
    for on in (False, True):
        settings = changed(BASE, {"gradient_checkpointing": on})
        cache = build_cache(folders["few"], tiny_model, 64)
        work, state = prepare(settings, "", cache, tiny_model, new_accelerator("fp32"), Progress())
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            (term,) = (summed for summed, _ in batch_terms(work, state, [0], 0))
        kept.append(sum(sizes))
        term.backward()
        grads = [weight.grad for weight in state.transformer.parameters() if weight.grad is not None]
        norms.append(sum(grad.norm().item() for grad in grads))
    assert kept[1] < 0.5 * kept[0] and norms[1] == pytest.approx(norms[0], rel=1e-4)
