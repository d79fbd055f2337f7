"""A training that begins with a LoRA that is there already, `lora.start_from`, instead of with nothing learnt."""

import shutil
from dataclasses import replace

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing
from zit_app.core.library import find_adapter
from zit_app.core.run import Run
from zit_app.core.train_settings import LoraSettings, TrainSettings
from zit_app.model.adapter_changes import LowRank
from zit_app.model.adapter_files import Adapter, read_adapter
from zit_app.model.adapter_names import shown
from zit_app.model.adapter_stack import check_fit
from zit_app.model.adapters import adapter_weights, check_targets

COPY = "start_from.safetensors"


def with_own_start(settings: TrainSettings, run: Run) -> TrainSettings:
    """The settings with a copy of that LoRA in the run folder, so that the run can go on whatever becomes of the file.

    Raises ZitError when there is no such file and no copy of it.
    """
    if not settings.lora.start_from:
        return settings
    copy = run.folder / COPY
    if not copy.exists():
        with replacing(copy) as temporary:
            shutil.copyfile(find_adapter(settings.lora.start_from), temporary)
    return replace(settings, lora=replace(settings.lora, start_from=str(copy)))


def starting_adapter(lora: LoraSettings, blank: ZImageTransformer2DModel) -> Adapter | None:
    """The LoRA to begin with. Raises ZitError when it is none that a training with these settings could go on from.

    ``blank`` needs no weights.
    """
    if not lora.start_from:
        return None
    if lora.network_type != "lora":
        raise ZitError(
            f"lora.start_from goes on with a LoRA only, not with {lora.network_type}.",
            "Set lora.network_type to lora, or leave lora.start_from empty.",
        )
    adapter = read_adapter(find_adapter(lora.start_from))
    check_fit(blank, adapter)
    changes = adapter.modules.values()
    if adapter.biases or not all(isinstance(change, LowRank) for change in changes):
        raise ZitError(
            "What lora.start_from names is no plain LoRA.",
            f"Make one of it first: zit lora convert FILE NEW --rank {lora.network_dim}.",
        )
    rank = max(change.rank for change in changes if isinstance(change, LowRank))
    if rank > lora.network_dim:
        raise ZitError(
            f"The LoRA to start from has rank {rank}, more than lora.network_dim = {lora.network_dim}.",
            f"Set lora.network_dim to {rank}.",
        )
    blocks = lora.learning_blocks(len(blank.layers))
    learning = check_targets(blank, lora.targets, lora.extra_targets, lora.network_type, lora.lokr_factor, blocks)
    others = sorted(adapter.modules.keys() - set(learning))
    if others:
        raise ZitError(
            f"The LoRA to start from changes {len(others)} layers that would not learn, such as {shown(others[0])}.",
            "Let them learn by lora.targets, lora.layers and lora.extra_targets.",
        )
    return adapter


@torch.no_grad()
def begin_with(transformer: ZImageTransformer2DModel, adapter: Adapter, lora: LoraSettings) -> dict[str, int]:
    """Give a fresh LoRA the weights of ``adapter``; the ranks that it fills, by the names of their layers.

    What it draws is what the adapter draws: ranks beyond it, and layers that it does not have, begin as they are, with
    nothing learnt.
    """
    weights = adapter_weights(transformer)
    scale = lora.network_alpha / (lora.network_dim**0.5 if lora.rslora else lora.network_dim)
    filled = {}
    for name, change in adapter.modules.items():
        assert isinstance(change, LowRank), "starting_adapter has looked"
        filled[name] = change.rank
        weights[f"{name}.lora_A.weight"][: change.rank] = change.down.float()
        weights[f"{name}.lora_B.weight"][:, : change.rank] = change.up.float() * (change.scale / scale)
    return filled
