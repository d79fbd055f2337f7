"""The two halves of a dataset's cache: which captions and pictures lack their tensors, why, and the encoding of those.

Batches by bucket; pictures are decoded on threads ahead of the card; a batch that is done stays done. What loads models
is imported when one is to be loaded: that takes longer than to find 5,000 pictures unchanged.
"""

import contextlib
import gc
import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.data import index
from zit_app.data.formats import Size, load_picture
from zit_app.data.index import Parts, Picture
from zit_app.data.pictures import DatasetScan
from zit_app.model.cache_files import write_latents, write_text
from zit_app.model.device import default_device, default_dtype, keeping_memory

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

# Of a batch whose size is not given. On a card a megapixel; on a processor what its caches hold: 17.5 ms a picture of
# 128 pixels in fours and as much in sixteens, 19.6 alone.
AUTO_PIXELS = {"cuda": 1 << 20, "cpu": 1 << 16}
AUTO_PICTURES, AUTO_CAPTIONS = 16, 8  # at most; captions of eights differ little in length
DECODERS, AHEAD = min(4, os.cpu_count() or 1), 2  # threads that decode pictures, and batches they are ahead
BESIDE = 2  # batches that a processor encodes side by side, each on its share of the cores
REASONS = {
    "new": "new",
    "lost": "its file is gone or damaged",
    "picture": "the picture changed",
    "bucket": "another size",
    "crop": "another crop",
    "mirrored": "mirroring",
    "background": "another background",
    "vae": "another VAE",
    "caption": "the caption changed",
    "encoder": "another text encoder",
    "limit": "another token limit",
    "format": "another number format",
}


@dataclass
class Part:
    """One half of a cache: what each picture's tensor depends on, and what of it was built or is lacking still."""

    parts: dict[str, list[Parts]] = field(default_factory=dict)  # by picture name, in the order of its tensors
    prints: dict[str, str] = field(default_factory=dict)  # by caption
    ordered: list[str] = field(default_factory=list)  # fingerprints, one a picture (and one a mirror image)
    built: int = 0
    lacking: set[str] = field(default_factory=set)


def build_texts(
    scan: DatasetScan,
    told: list[tuple[str, ...]],
    before: dict[str, dict[str, Any]],
    model: Path,
    batch_size: int,
    max_length: int,
    progress: Progress,
) -> Part:
    """Features of every caption and of the empty prompt; a caption that occurs twice is encoded once."""
    device = default_device()
    dtype = default_dtype(device)
    encoder_print = index.component_fingerprint(model / "text_encoder", model / "tokenizer")
    part = Part()
    wanted: dict[str, str] = {}
    for name, texts in [*zip((item.name for item in scan.items), told, strict=True), ("", ("",))]:
        parts = [index.text_parts(text, encoder_print, max_length, str(dtype)) for text in texts]
        part.prints |= zip(texts, map(index.fingerprint, parts), strict=True)
        if name:
            part.parts[name] = parts
    wanted = {key: text for text, key in part.prints.items()}
    part.lacking = _lacking(wanted, lambda key: index.text_path(scan.folder, key), progress)
    if not part.lacking:
        return part
    _tell_why("captions", part, {name: entry["texts"] for name, entry in before.items()}, progress)
    progress.stage(f"Encoding {len(part.lacking)} captions")

    from zit_app.model.loading import load_text_encoder

    encoder = load_text_encoder(model, device, dtype)
    by_length = sorted(part.lacking, key=lambda key: (len(wanted[key]), key))  # neighbours pad each other little
    with keeping_memory(device):
        for batch in _counted(_batches(by_length, batch_size or AUTO_CAPTIONS), part, progress):
            _encode(scan.folder, {key: wanted[key] for key in batch}, encoder, max_length)
    return part


def encode_beside(dataset: Path, prompts: list[str], model: Path, max_length: int, progress: Progress) -> list[str]:
    """Features of prompts that are not captions, kept beside those of the dataset's; their fingerprints, in order."""
    device = default_device()
    dtype = default_dtype(device)
    encoder_print = index.component_fingerprint(model / "text_encoder", model / "tokenizer")
    prints = [index.fingerprint(index.text_parts(one, encoder_print, max_length, str(dtype))) for one in prompts]
    lacking = {
        key: prompt
        for key, prompt in zip(prints, prompts, strict=True)
        if not index.whole(index.text_path(dataset, key), key)
    }
    if lacking:
        progress.stage(f"Encoding {len(lacking)} further prompts")

        from zit_app.model.loading import load_text_encoder

        encoder = load_text_encoder(model, device, dtype)
        for key, prompt in lacking.items():
            _encode(dataset, {key: prompt}, encoder, max_length)
        del encoder
        gc.collect()
        torch.cuda.empty_cache()
    return prints


def build_latents(
    scan: DatasetScan,
    pictures: list[Picture],
    before: dict[str, dict[str, Any]],
    model: Path,
    batch_size: int,
    progress: Progress,
) -> Part:
    """The same for the pictures. In float32 everywhere: computed once, trained on for hours."""
    part = Part()
    wanted: dict[str, Picture] = {}
    for picture in pictures:
        parts = picture.parts()
        part.parts.setdefault(picture.item.name, []).append(parts)
        part.ordered.append(index.fingerprint(parts))
        wanted[part.ordered[-1]] = picture
    part.lacking = _lacking(wanted, lambda key: index.latents_path(scan.folder, key), progress)
    if not part.lacking:
        return part
    _tell_why("pictures", part, {name: entry["latents"] for name, entry in before.items()}, progress)
    progress.stage(f"Encoding {len(part.lacking)} pictures")

    from zit_app.model.loading import load_vae

    # Convolutions on pictures with channels last take two thirds of the time on a processor, and no more on a card.
    device = default_device()
    vae = load_vae(model, device, torch.float32)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # diffusers hides its parameters
    for layer in vae.modules():
        if isinstance(layer, torch.nn.SiLU):
            layer.inplace = True  # nobody needs what a norm gave once it is activated: a pass through memory less
    by_size: dict[Size, list[str]] = {}
    for key, picture in wanted.items():
        if key in part.lacking:
            by_size.setdefault(picture.crop.size, []).append(key)
    fitting = AUTO_PIXELS[device.type]
    batches = [
        batch
        for size, keys in by_size.items()
        for batch in _batches(keys, batch_size or max(1, min(AUTO_PICTURES, fitting // math.prod(size))))
    ]
    decoded = _decoded(batches, lambda key: picture_tensor(wanted[key]))
    encoded = _posteriors(vae, decoded)
    with contextlib.closing(decoded), contextlib.closing(encoded), keeping_memory(device):
        for batch, posterior in zip(_counted(batches, part, progress), encoded, strict=False):
            for key, mean_CHW, logvar_CHW in zip(batch, *posterior, strict=True):
                if not (mean_CHW.isfinite().all() and logvar_CHW.isfinite().all()):
                    raise ZitError(
                        f"The VAE makes no finite numbers of {wanted[key].item.name}.",
                        "Copy or download the model's vae again.",
                        "weights",
                    )
                write_latents(index.latents_path(scan.folder, key), key, mean_CHW, logvar_CHW)
    return part


def _encode(dataset: Path, texts: dict[str, str], encoder: tuple[Any, Any], max_length: int) -> None:
    """Write the features of texts, by their fingerprints. Raises ZitError for numbers that are none."""
    from zit_app.model.text import encode_prompts

    features = encode_prompts(*encoder, list(texts.values()), max_length)
    for (key, text), features_LD in zip(texts.items(), features, strict=True):
        if not features_LD.isfinite().all():
            raise ZitError(
                f"The text encoder makes no finite numbers of the caption {text[:60]!r}.",
                "Copy or download the model's text_encoder again.",
                "weights",
            )
        write_text(index.text_path(dataset, key), key, features_LD)


def picture_tensor(picture: Picture) -> Tensor:
    """The part of the picture that is trained, (3, H, W) float32 in -1 … 1."""
    crop, background = picture.crop, picture.background or "white"
    image = load_picture(picture.item.path, crop.size, crop.box, background, picture.mirrored)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def _lacking(keys: Iterable[str], path_of: Callable[[str], Path], progress: Progress) -> set[str]:
    """The keys without a usable file: not cached yet, or damaged, which is said."""
    lacking = set()
    for key in keys:
        path = path_of(key)
        if not index.whole(path, key):
            lacking.add(key)
            if path.exists():
                progress.note(f"The cached file {path} is damaged. It is built again.")
    return lacking


def _tell_why(what: str, part: Part, before: dict[str, list[Parts]], progress: Progress) -> None:
    """Say how many are to be encoded for which reason, with a few names."""
    names: dict[str, list[str]] = {}
    for name, wanted in part.parts.items():
        earlier = before.get(name, [])
        for i, parts in enumerate(wanted):
            if index.fingerprint(parts) in part.lacking:
                changed = index.why(earlier[i] if i < len(earlier) else None, parts) or ["lost"]
                names.setdefault(" and ".join(REASONS[one] for one in changed), []).append(name)
    for reason, of in names.items():
        more = f" and {len(of) - 3} more" if len(of) > 3 else ""
        progress.note(f"{len(of)} {what}: {reason} ({', '.join(of[:3])}{more})")


def _batches(keys: list[str], size: int) -> list[list[str]]:
    return [keys[at : at + size] for at in range(0, len(keys), size)]


def _counted(batches: list[list[str]], part: Part, progress: Progress) -> Iterator[list[str]]:
    """Batch after batch until asked to stop; a batch counts as built when the next one is asked for."""
    total = sum(map(len, batches))
    for batch in batches:
        if progress.stop_requested():
            return
        yield batch
        part.lacking -= set(batch)
        part.built += len(batch)
        progress.step(part.built, total)


def _posteriors(vae: "AutoencoderKL", pictures: Iterable[Tensor]) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Mean and log variance of each batch, in order. A card works on one batch after the other.

    On a processor a layer of a small picture keeps one core busy better than several: two batches at once on half the
    cores each take a tenth less time than one after the other on all.
    """
    from zit_app.model.latents import encode_pictures

    cores = torch.get_num_threads()
    if vae.device.type != "cpu" or cores < BESIDE:
        yield from (encode_pictures(vae, x_B3HW) for x_B3HW in pictures)
        return
    pool = ThreadPoolExecutor(BESIDE, initializer=torch.set_num_threads, initargs=(cores // BESIDE,))
    under_way: deque[Future[tuple[Tensor, Tensor]]] = deque()
    try:
        for x_B3HW in pictures:
            under_way.append(pool.submit(encode_pictures, vae, x_B3HW))
            if len(under_way) > BESIDE:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(batches: list[list[str]], load: Callable[[str], Tensor]) -> Generator[Tensor, None, None]:
    """The pictures of each batch, (B, 3, H, W), decoded on threads while the card works on the batch before."""
    waiting: deque[list[Future[Tensor]]] = deque()
    pool = ThreadPoolExecutor(DECODERS)
    try:
        for batch in batches:
            waiting.append([pool.submit(load, key) for key in batch])
            if len(waiting) > AHEAD:
                yield _stacked(waiting.popleft())
        while waiting:
            yield _stacked(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _stacked(pictures: list[Future[Tensor]]) -> Tensor:
    return torch.stack([one.result() for one in pictures]).contiguous(memory_format=torch.channels_last)
