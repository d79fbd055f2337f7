"""Cache a dataset: text features of its captions and latents of its pictures, once, before any training step.

Only what is missing, stale or damaged is computed, so a second run loads no model. The text encoder leaves memory
before the VAE enters it.
"""

import gc
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zit_app.core.cache_settings import load_caching
from zit_app.core.models import find_model, read_flavour
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data import index
from zit_app.data.buckets import bucket_sizes
from zit_app.data.formats import Size
from zit_app.data.pictures import DatasetScan, Skipped, captions, scan_dataset
from zit_app.engine.encoding import Part, build_latents, build_texts
from zit_app.model.cache_files import read_latents, read_text


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture with one caption to train on. `latents` and `text` are fingerprints, "" where not asked for."""

    name: str
    size: Size  # of its bucket: width, height in pixels
    latents: str
    text: str
    category: str = ""  # what it is of, where the data set says so: its folder, or the table of captions


@dataclass(frozen=True)
class Cache:
    """The cached tensors of a dataset for one model and one resolution, or several.

    An epoch goes through `samples`: each picture with each of its captions, mirrored as well when the dataset asks
    for it, as often as the dataset lets it count.
    """

    dataset: Path
    resolutions: tuple[int, ...]  # pixels: sides of squares of the buckets' area, the main one first
    samples: tuple[Sample, ...]
    empty_text: str  # fingerprint of the empty prompt's features, for caption dropout
    skipped: tuple[Skipped, ...]
    built_latents: int
    built_texts: int
    complete: bool  # false when it was asked to stop on the way

    @property
    def pictures(self) -> int:
        """How many they are; each may be there in several sizes, mirrored, with several captions."""
        return len({sample.name for sample in self.samples})

    @property
    def summary(self) -> str:
        """What was found and built, in one sentence."""
        words = f"{self.pictures} pictures: {self.built_latents} latents and {self.built_texts} texts were missing"
        return f"{words}; {len(self.skipped)} files skipped." if self.skipped else f"{words}."

    @property
    def resolution(self) -> int:
        """The main one."""
        return self.resolutions[0]

    @property
    def side(self) -> int:
        """Of a square picture of the resolution, in pixels that a model draws."""
        return max(16, self.resolution // 16 * 16)

    def mean(self, sample: Sample) -> Tensor:
        """Mean of the VAE's posterior, (C, H, W) float32, not normalised: the field trains on the mode."""
        return read_latents(index.latents_path(self.dataset, sample.latents), sample.latents)[0]

    def features(self, fingerprint: str) -> Tensor:
        """Text features, (L, D)."""
        return read_text(index.text_path(self.dataset, fingerprint), fingerprint)


def build_cache(
    dataset: Path,
    model: str | Path,
    resolution: int,
    batch_size: int = 0,
    only: str | None = None,
    progress: Progress | None = None,
    *,
    enable_bucket: bool = True,
    max_length: int = 512,
    trigger_word: str = "",
    further: Sequence[int] = (),
) -> Cache:
    """Compute what is missing of a dataset's cache, and tell where everything lies.

    resolution  side of a square of the same area, in pixels; 0 = the model's own
    batch_size  pictures or captions encoded together; 0 = by their size
    only        "latents" or "text" leaves the other part alone
    further     resolutions at which pictures that are large enough are encoded as well

    Raises ZitError for a folder without readable pictures, missing captions, a wrong model folder, a full disk.
    """
    progress = progress or Progress()
    folder = find_model(model)
    scan = scan_dataset(dataset, index.load_known(dataset))
    index.save_known(scan)
    for skipped in scan.skipped:
        progress.note(f"Skipped {skipped.name}: {skipped.reason}")
    resolutions = tuple(dict.fromkeys((resolution or read_flavour(folder).pixels, *further)))
    vae = "" if only == "text" else index.component_fingerprint(folder / "vae")
    sizes, *others = (bucket_sizes(each, enable_bucket) for each in resolutions)
    pictures = list(index.pictures(scan, sizes, vae, others))
    told: list[tuple[str, ...]] = [("",)] * len(scan.items)
    if only != "latents":
        told = captions(scan, trigger_word)
    before = index.load_built(dataset)
    texts, latents = Part(), Part()
    if only != "latents":
        texts = build_texts(scan, told, before, folder, batch_size, max_length, progress)
        _free_memory(texts)
    if only != "text" and not texts.lacking:
        latents = build_latents(scan, pictures, before, folder, batch_size, progress)
        _free_memory(latents)
    index.save_built(dataset, before | _remembered(scan, before, texts, latents))
    of_item = dict(zip((item.name for item in scan.items), told, strict=True))
    samples = tuple(
        Sample(picture.item.name, picture.crop.size, latent, texts.prints.get(caption, ""), picture.item.category)
        for picture, latent in zip(pictures, latents.ordered or itertools.repeat(""), strict=False)
        for caption in of_item[picture.item.name]
        for _ in range(picture.item.repeats)
    )
    return Cache(
        dataset,
        resolutions,
        samples,
        texts.prints.get("", ""),
        scan.skipped,
        latents.built,
        texts.built,
        not texts.lacking and not latents.lacking,
    )


def cache_run(run: Run, progress: Progress) -> Cache:
    """Build the cache that a run of kind cache asks for."""
    settings = load_caching(run.folder / "settings.toml")
    with run.working():
        cache = build_cache(
            Path(settings.dataset),
            settings.model,
            settings.resolution,
            settings.batch_size,
            None if settings.only == "all" else settings.only,
            progress,
            enable_bucket=settings.enable_bucket,
            max_length=settings.max_sequence_length,
            trigger_word=settings.trigger_word,
            further=settings.further_resolutions,
        )
        skipped = [[one.name, one.reason] for one in cache.skipped]
        run.write_status("done" if cache.complete else "stopped", message=cache.summary, skipped=skipped)
    return cache


def _remembered(scan: DatasetScan, before: dict[str, dict[str, Any]], *halves: Part) -> dict[str, dict[str, Any]]:
    """By picture what its cached tensors were built from, of the halves that are whole now."""
    after = {}
    for item in scan.items:
        entry = dict(before.get(item.name, {"latents": [], "texts": []}))
        for kind, part in zip(("texts", "latents"), halves, strict=True):
            parts = part.parts.get(item.name)
            if parts and not any(index.fingerprint(each) in part.lacking for each in parts):
                entry[kind] = parts
        after[item.name] = entry
    return after


def _free_memory(part: Part) -> None:
    """Give back what the model held that built this part, so that the next one finds the whole card."""
    if part.built:  # else none was loaded, and a collection takes half a second of a run of one
        gc.collect()
        torch.cuda.empty_cache()
