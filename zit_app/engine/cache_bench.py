"""How fast a cache is built, beside the plain loop that everybody writes first, in one run on the same pictures."""

import multiprocessing
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from zit_app.core.paths import assets
from zit_app.core.progress import Progress
from zit_app.data.pictures import Item, scan_dataset
from zit_app.engine.cache import build_cache
from zit_app.model.loading import default_device, default_dtype, find_model, read_flavour

TURNS = 4  # of both, one after the other: a machine that does other things as well slows both alike


@dataclass(frozen=True)
class Clock:
    """Seconds that passed, and seconds that processors worked: the latter tell on a machine that does other things."""

    seconds: float = 0.0
    processor: float = 0.0

    @classmethod
    def now(cls) -> "Clock":
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __add__(self, more: "Clock") -> "Clock":
        return Clock(self.seconds + more.seconds, self.processor + more.processor)

    def __sub__(self, begun: "Clock") -> "Clock":
        return Clock(self.seconds - begun.seconds, self.processor - begun.processor)


def bench_cache(model: str, count: int, resolution: int, progress: Progress) -> dict[str, Any]:
    """Seconds a picture with its caption: plain loop, `build_cache` and a second run over the same unchanged sets.

    Loading is left out on both sides: each turn of ours is measured once with one picture and once with all of them,
    so a turn needs two pictures at least.
    """
    count = max(count, 2 * TURNS)
    pixels = resolution or read_flavour(find_model(model)).pixels
    quiet, random = Progress(), Random(0)
    plain = ours = again = Clock()
    with TemporaryDirectory() as work:
        loop = _PlainLoop(model)
        progress.stage(f"{count} pictures, by a plain loop and by the cache in turns")
        for turn in range(TURNS):
            dataset, single = Path(work, f"all{turn}"), Path(work, f"one{turn}")
            size = count // TURNS + (turn < count % TURNS)
            _make(dataset, size, pixels, random)
            _make(single, 1, pixels, random)
            plain += loop.encode(dataset)
            loading = _timed(partial(build_cache, single, model, pixels, progress=quiet))
            whole = _timed(partial(build_cache, dataset, model, pixels, progress=quiet))
            again += _timed(partial(build_cache, dataset, model, pixels, progress=quiet))
            ours += whole - loading
            progress.step(turn + 1, TURNS)
        loop.close()
    more = count - TURNS  # the one picture of each loading is not among them
    return {
        "model": model,
        "pictures": count,
        "pixels": pixels,
        "plain": plain.seconds / count,
        "ours": ours.seconds / more,
        "faster": (plain.seconds / count) / (ours.seconds / more),
        "faster_processor": (plain.processor / count) / (ours.processor / more),
        "second_run": again.seconds,
        "second_run_processor": again.processor,
    }


def _make(folder: Path, count: int, pixels: int, random: Random) -> None:
    """Pictures of three aspects with captions of 20 to 60 words, made from the demo's; all different."""
    sources = sorted((assets() / "demo" / "pictures").glob("*.png"))
    words = " ".join(source.with_suffix(".txt").read_text(encoding="utf-8") for source in sources).split()
    folder.mkdir(parents=True)
    for i in range(count):
        size = random.choice([(pixels, pixels), (pixels * 5 // 4, pixels * 4 // 5), (pixels * 4 // 5, pixels * 5 // 4)])
        with Image.open(random.choice(sources)) as source:
            picture = source.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        picture.putpixel((0, 0), (i % 256, i // 256 % 256, random.randrange(256)))
        picture.save(folder / f"{i:05d}.png", compress_level=1)
        caption = " ".join(random.choices(words, k=random.randint(20, 60)))
        (folder / f"{i:05d}.txt").write_text(caption, encoding="utf-8")


class _PlainLoop:
    """One picture after the other through `vae.encode` and `ZImagePipeline.encode_prompt`, in a process of its own.

    So nothing that we set for our own encoding touches it.
    """

    def __init__(self, model: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=_plain_loop, args=(model, there), daemon=True)
        self._process.start()
        there.close()
        self._here.recv()

    def encode(self, dataset: Path) -> Clock:
        """The time for all pictures and captions of a dataset."""
        self._here.send(dataset)
        return Clock(*self._here.recv())

    def close(self) -> None:
        """End the process."""
        self._here.close()
        self._process.join()


def _plain_loop(model: str, asked: Connection) -> None:
    from diffusers import ZImagePipeline

    device = default_device()
    dtype = default_dtype(device)
    pipeline = ZImagePipeline.from_pretrained(find_model(model), transformer=None, torch_dtype=dtype)
    pipeline.vae.to(device, torch.float32)
    pipeline.text_encoder.to(device)
    asked.send("ready")
    with suppress(EOFError):
        while True:
            items = scan_dataset(asked.recv()).items
            begun = Clock.now()
            for item in items:
                _encode_plainly(pipeline, device, item)
            found = Clock.now() - begun
            asked.send((found.seconds, found.processor))


@torch.no_grad()
def _encode_plainly(pipeline: Any, device: torch.device, item: Item) -> None:
    with Image.open(item.path) as image:
        picture = image.convert("RGB")
    width, height = (side // 16 * 16 for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels_HW3 = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(height, width, 3)
    x_13HW = pixels_HW3.permute(2, 0, 1)[None].to(device).float() / 127.5 - 1
    latents = pipeline.vae.encode(x_13HW).latent_dist
    features = pipeline.encode_prompt(item.caption, device=device, do_classifier_free_guidance=False)
    torch.stack([latents.mean, latents.logvar]).cpu()
    features[0][0].cpu()


def _timed(work: Callable[[], object]) -> Clock:
    begun = Clock.now()
    work()
    return Clock.now() - begun
