"""The model's own ways to pictures, redirected to what a data set shows: few-step models keep their steps on them.

A picture with noise drawn at random asks a few-step model for the mean of all that this noise might become, which is
what distillation had taken out of it. On its own way from a seed there is one end and nothing to average. So the
untrained model draws each caption from a few seeds, and its states x_k and velocities v_k at the nodes are recorded.
With δ, the picture that is learnt less the one that it drew, it is to foresee x_k - σ_k v_k + δ instead, and states on
the way are moved by any share of δ: what one node leaves undone, the next ones put right (the states are then those
that the learner meets and not the teacher's alone, as in DAgger, Ross et al. 2011):

    x = x_k + (1 - σ_k) a δ,    x0 = x_k - σ_k v_k + δ,    v = (x - x0) / σ_k,    a ~ U(0, 1)

With δ = 0 that is the model's own velocity.

B batch, W ways, N nodes, C latent channels, H and W latent pixels, L tokens, D caption width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zit_app.core.progress import Progress
from zit_app.core.train_settings import TrainingSettings
from zit_app.data.formats import Size
from zit_app.engine.cache import Cache, Sample
from zit_app.engine.frozen import Frozen
from zit_app.engine.way_files import FOLDER, Way, own_file, place_of

TOGETHER = 16  # ways that are drawn before they are kept
FIRST_SEED = 100_000  # of ways to the pictures of a data set: far from those that own pictures are drawn from
Watch = Callable[[list[Tensor], Size, Sequence[int], str], Frozen]  # draws captions, in a size, from seeds; a stage


@dataclass(frozen=True)
class Asked:
    """A way to be recorded."""

    sample: Sample
    text: str  # fingerprint of what is drawn: a sample's own caption, but for own pictures
    seed: int
    file: Path | None  # where it is kept, if anywhere


@dataclass(frozen=True)
class Ways:
    """All ways to the pictures of a training, by what is learnt of them: their latents and captions."""

    of: dict[tuple[str, str], list[Way]]
    sigma_N: Tensor

    def nearest(self, sigma_B: Tensor) -> Tensor:
        """Noise levels (B,), on the CPU, each put to the nearest node: a way is known there only."""
        return self.sigma_N.to(sigma_B)[self._columns(sigma_B)]

    def redirected(
        self, samples: Sequence[Sample], x0_BCHW: Tensor, sigma_B: Tensor, share_B: Tensor, chance_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Clean latents and noise, (B, C, H, W) each, whose mixture at ``sigma_B`` is the state to learn from.

        ``x0_BCHW`` is what the pictures show; ``sigma_B`` are nodes, ``share_B`` says how far a state is moved, and
        ``chance_B``, from 0 to 1, along which of a picture's ways; these three are known on the CPU.
        """
        several = [self.of[sample.latents, sample.text] for sample in samples]
        chosen = [ways[int(chance * len(ways))] for ways, chance in zip(several, chance_B.tolist(), strict=True)]
        pairs = list(zip(chosen, self._columns(sigma_B).tolist(), strict=True))
        x = torch.stack([way.x_NCHW[column] for way, column in pairs]).to(x0_BCHW)
        v = torch.stack([way.v_NCHW[column] for way, column in pairs]).to(x0_BCHW)
        moved_BCHW = x0_BCHW - torch.stack([way.x0_CHW for way in chosen]).to(x0_BCHW)
        sigma, share = (t.to(x0_BCHW)[:, None, None, None] for t in (sigma_B, share_B))
        foreseen_BCHW = x - sigma * v + moved_BCHW
        state_BCHW = x + (1 - sigma) * share * moved_BCHW
        return foreseen_BCHW, (state_BCHW - (1 - sigma) * foreseen_BCHW) / sigma

    def _columns(self, sigma_B: Tensor) -> Tensor:
        return (sigma_B[:, None] - self.sigma_N.to(sigma_B)).abs().argmin(1)


def asked_ways(
    samples: Sequence[Sample], training: TrainingSettings, own_texts: Sequence[str], run: Path | None
) -> list[Asked]:
    """As many ways as the settings say to each picture of the data set, and to own picture i the one that it was drawn
    on: prompt i (its fingerprint is number i of ``own_texts``) from seed i. They are kept in the folder of the ``run``.
    Without ``own_texts`` nothing is its own, whatever its folder is called.
    """
    asked: list[Asked] = []
    different = {(one.latents, one.text): one for one in samples}.values()
    places = [place_of(one.name) if own_texts else None for one in different]
    seeds = training.ways_to_each(max(1, places.count(None)))
    for sample, own in zip(different, places, strict=True):
        if own is not None:
            asked.append(Asked(sample, own_texts[own], own, run and own_file(run, own)))
        else:
            for seed in range(FIRST_SEED + len(asked), FIRST_SEED + len(asked) + seeds):
                name = f"{sample.latents}_{sample.text}_{seed}.safetensors"  # of another data set it is another
                asked.append(Asked(sample, sample.text, seed, run and run / FOLDER / name))
    return asked


def record_ways(
    asked: Sequence[Asked], cache: Cache, watch: Watch, nodes_N: Tensor, progress: Progress, writes: bool = True
) -> Ways:
    """Those that are kept; the others the untrained model draws, size by size, and they are kept from then on
    (in one process of several, the one that ``writes``). Asked to stop, it leaves the rest, for which a resume comes.
    """
    known = {one: way for one in asked if one.file and (way := Way.read(one.file))}
    lacking = [one for one in asked if one not in known]
    sizes = dict.fromkeys(one.sample.size for one in lacking)
    batches = [
        of_size[at : at + TOGETHER]
        for of_size in ([one for one in lacking if one.sample.size == size] for size in sizes)
        for at in range(0, len(of_size), TOGETHER)
    ]
    for number, these in enumerate(batches):
        if progress.stop_requested():
            break
        stage = f"Drawing the captions to learn on the ways to them, part {number + 1} of {len(batches)}"
        size, seeds = these[0].sample.size, [one.seed for one in these]
        seen = watch([cache.features(one.text) for one in these], size, seeds, stage)
        for i, one in enumerate(these):
            way = Way(seen.x_MNCHW[i].half(), seen.v_MNCHW[i].half(), seen.x0_MCHW[i].half())
            if one.file and writes:
                way.write(one.file)
                way = Way.read(one.file) or way  # 200 of them at 1024² are 1.7 GB, which may stay on the disk
            known[one] = way
    ways: dict[tuple[str, str], list[Way]] = {}
    for one in asked:
        if one in known:
            ways.setdefault((one.sample.latents, one.sample.text), []).append(known[one])
    return Ways(ways, nodes_N.float())
