"""What watches over a few-step model while a LoRA learns on it, from what the untrained model does on other prompts.

L tokens, D caption width, N nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from torch import Tensor

from zit_app.core.progress import Progress
from zit_app.core.train_settings import TrainSettings
from zit_app.data.formats import Size
from zit_app.engine.aids import Aid, TrainingAdapter, UndistilledWeights
from zit_app.engine.cache import Cache
from zit_app.engine.frozen import FIRST_SEED, Frozen, passes, watch, with_recall
from zit_app.engine.ways import Asked, Ways, record_ways
from zit_app.model.adapter_files import Adapter
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapters import target_modules
from zit_app.model.loading import load_transformer, read_flavour
from zit_app.model.null_space import recorded_inputs


@dataclass(frozen=True)
class Guard:
    """What an untrained model leaves behind for its training."""

    frozen: Frozen | None  # what the model to be used does: its health is measured against it
    held_to: Frozen | None  # what the weights that learn do: for the tether and the replay
    inputs: dict[str, Tensor]  # of the layers that learn in a null space
    aid: Aid | None = None  # on while training
    ways: Ways | None = None  # to the pictures that are learnt


@dataclass(frozen=True)
class Untrained:
    """The model before anything is attached, and the unrelated prompts that it is asked, (L, D) each."""

    transformer: ZImageTransformer2DModel
    cache: Cache
    caps: list[Tensor]
    asked: Sequence[Asked]  # its ways to the pictures, where it learns on them
    nodes_N: Tensor
    seed: int
    progress: Progress
    writes: bool  # the one process that does

    def ways(self) -> Ways | None:
        """Its ways to the pictures, where they are asked for."""
        if not self.asked:
            return None
        return record_ways(self.asked, self.cache, self._drawing, self.nodes_N, self.progress, self.writes)

    def watched(self, as_run: Path, recording: Sequence[str] = ()) -> tuple[Frozen, dict[str, Tensor]]:
        """How it draws the prompts, guided as the model in ``as_run``, and the inputs of the layers ``recording``."""
        guidance = read_flavour(as_run).guidance
        calls = passes(len(self.caps), len(self.nodes_N), guidance)
        with recorded_inputs(self.transformer, recording, calls, self.seed) as inputs:
            seeds = range(FIRST_SEED, FIRST_SEED + len(self.caps))
            square = (self.cache.side, self.cache.side)
            frozen = self._drawing(self.caps, square, seeds, "Watching the untrained model", guidance)
        return frozen, inputs

    def _drawing(
        self,
        caps: list[Tensor],
        size: Size,
        seeds: Sequence[int],
        stage: str,
        guidance: float = 0.0,
    ) -> Frozen:
        empty = self.cache.features(self.cache.empty_text)
        return watch(self.transformer, caps, empty, seeds, size, self.nodes_N, guidance, self.progress, stage)


def stand_guard(
    untrained: Untrained, settings: TrainSettings, model: Path, adapter: Adapter | None, base_model: Path | None
) -> Guard:
    """Watch the untrained model, then put on what is on while training: an adapter or the undistilled weights."""
    training, transformer = settings.training, untrained.transformer
    frozen: Frozen | None = None
    inputs: dict[str, Tensor] = {}
    if untrained.caps and (training.health_every or base_model is None):
        apart = training.protection == "null_space"
        frozen, inputs = untrained.watched(model, _learning(transformer, settings) if apart else ())
        frozen = with_recall(frozen, transformer) if training.health_every else frozen
    if adapter is not None:
        return Guard(frozen, frozen, inputs, TrainingAdapter(apply_adapters(transformer, [(adapter, 1.0, 1, 0)])))
    if base_model is None:
        return Guard(frozen, frozen, inputs, ways=untrained.ways())
    untrained.progress.stage("Loading the undistilled transformer")
    other = load_transformer(base_model, torch.device("cpu"), transformer.dtype)
    aid = UndistilledWeights(transformer, other)
    asked = untrained.caps and (training.replay or training.tethered)
    return Guard(frozen, untrained.watched(base_model)[0] if asked else None, inputs, aid)


def _learning(transformer: ZImageTransformer2DModel, settings: TrainSettings) -> list[str]:
    """Names of the layers that an adapter will be attached to."""
    lora = settings.lora
    blocks = lora.learning_blocks(len(transformer.layers))
    return target_modules(transformer, lora.targets, lora.extra_targets, blocks)
