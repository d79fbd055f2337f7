"""How fast a cache is built, beside the plain loop that everybody writes first, in one run on the same pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image

from zit_app.core.paths import assets
from zit_app.core.progress import Progress
from zit_app.data.pictures import scan_dataset
from zit_app.engine.cache import build_cache
from zit_app.model.loading import default_device, default_dtype, find_model, read_flavour


@dataclass(frozen=True)
class Clock:
    """Seconds that passed, and seconds that processors worked: the latter tell on a machine that does other things."""

    seconds: float
    processor: float

    @classmethod
    def now(cls) -> "Clock":
        """Both clocks."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, begun: "Clock") -> "Clock":
        return Clock(self.seconds - begun.seconds, self.processor - begun.processor)


def bench_cache(model: str, count: int, resolution: int, progress: Progress) -> dict[str, Any]:
    """Seconds a picture with its caption: plain loop, `build_cache` and a second run over the same unchanged set.

    Loading is left out on both sides: ours is measured once with one picture and once with all of them.
    """
    pixels = resolution or read_flavour(find_model(model)).pixels
    with TemporaryDirectory() as work:
        dataset, single = Path(work, "all"), Path(work, "one")
        _make(dataset, count, pixels)
        _make(single, 1, pixels)
        progress.stage(f"Plain loop over {count} pictures")
        plain = _plain_loop(dataset, model, progress.step)
        progress.stage("The cache")
        quiet = Progress()
        loading = _timed(lambda: build_cache(single, model, pixels, progress=quiet))
        whole = _timed(lambda: build_cache(dataset, model, pixels, progress=quiet))
        again = _timed(lambda: build_cache(dataset, model, pixels, progress=quiet))
    extra, more = whole - loading, max(1, count - 1)
    ours = Clock(max(1e-6, extra.seconds) / more, max(1e-6, extra.processor) / more)
    return {
        "model": model,
        "pictures": count,
        "pixels": pixels,
        "plain": plain.seconds / count,
        "ours": ours.seconds,
        "faster": plain.seconds / count / ours.seconds,
        "faster_processor": plain.processor / count / ours.processor,
        "second_run": again.seconds,
        "second_run_processor": again.processor,
    }


def _make(folder: Path, count: int, pixels: int) -> None:
    """Pictures of three aspects with captions of 20 to 60 words, made from the demo's; all different."""
    random = Random(0)
    sources = sorted((assets() / "demo" / "pictures").glob("*.png"))
    words = " ".join(source.with_suffix(".txt").read_text(encoding="utf-8") for source in sources).split()
    folder.mkdir(parents=True)
    for i in range(count):
        size = random.choice([(pixels, pixels), (pixels * 5 // 4, pixels * 4 // 5), (pixels * 4 // 5, pixels * 5 // 4)])
        with Image.open(random.choice(sources)) as source:
            picture = source.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        picture.putpixel((0, 0), (i % 256, i // 256 % 256, 7))
        picture.save(folder / f"{i:05d}.png", compress_level=1)
        caption = " ".join(random.choices(words, k=random.randint(20, 60)))
        (folder / f"{i:05d}.txt").write_text(caption, encoding="utf-8")


def _plain_loop(dataset: Path, model: str, told: Callable[[int, int], None]) -> Clock:
    """One picture after the other through `vae.encode` and `ZImagePipeline.encode_prompt`; seconds, without loading."""
    from diffusers import ZImagePipeline

    device = default_device()
    pipeline = ZImagePipeline.from_pretrained(find_model(model), transformer=None, torch_dtype=default_dtype(device))
    pipeline.vae.to(device, torch.float32)
    pipeline.text_encoder.to(device)
    items = scan_dataset(dataset).items
    begun = Clock.now()
    with torch.no_grad():
        for i, item in enumerate(items):
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
            told(i + 1, len(items))
    return Clock.now() - begun


def _timed(work: Callable[[], object]) -> Clock:
    begun = Clock.now()
    work()
    return Clock.now() - begun
