"""What an adapter file says about the training that it comes from."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from zit_app.core import paths
from zit_app.core.settings import parse_toml
from zit_app.core.train_settings import TrainSettings
from zit_app.engine.cache import Cache


def adapter_metadata(
    settings: TrainSettings, preset: str, cache: Cache, model: Path, base: str, explained: Sequence[float]
) -> dict[str, str]:
    """What a file browser or another program wants to know of the adapter. No dates: the same run, the same file.

    cache      what is taught, without the pictures kept aside
    explained  R² of L, a and b where Lab was fitted
    """
    training, data = settings.training, settings.dataset
    label = Path(preset).stem  # of a file of one's own; where it lies is nobody else's business
    version = parse_toml((paths.PROJECT / "pyproject.toml").read_text(encoding="utf-8"), "pyproject.toml")
    kind = settings.lora.network_type
    lokr = {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": "lokr"})}
    lab = {"zit.lab_r2": json.dumps([round(one, 4) for one in explained])} if explained else {}
    return {
        **(lokr if kind == "lokr" else {}),
        **lab,
        "modelspec.title": f"{cache.dataset.resolve().name} {label}".strip(),
        "modelspec.trigger_phrase": data.trigger_word,
        "modelspec.resolution": f"{cache.resolution}x{cache.resolution}",
        "modelspec.prediction_type": "flow",
        "ss_base_model_version": "z-image",
        "ss_sd_model_name": model.resolve().name,
        "ss_sd_model_hash": base,
        "ss_learning_rate": f"{training.learning_rate:g}",
        "ss_lr_scheduler": training.lr_scheduler,
        "ss_optimizer": training.optimizer,
        "ss_seed": f"{training.seed}",
        "ss_batch_size_per_device": f"{data.batch_size}",
        "ss_gradient_accumulation_steps": f"{training.gradient_accumulation_steps}",
        "ss_num_train_images": f"{cache.pictures}",
        "zit.version": str(version["project"]["version"]),
        "zit.preset": label,
        "zit.settings": json.dumps(dataclasses.asdict(settings)),
    }
