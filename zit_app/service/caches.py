"""What is cached of a dataset for a model, what is still to be encoded and why, and what lies there for nothing."""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.cache_settings import CacheSettings
from zit_app.core.errors import ZitError
from zit_app.core.models import find_model, read_flavour
from zit_app.data import index
from zit_app.data.buckets import bucket_sizes
from zit_app.data.captions import with_trigger
from zit_app.data.formats import Size
from zit_app.data.index import CACHE_FOLDER, Parts
from zit_app.data.pictures import scan_dataset

# The worker computes in one of these, by the machine; the app cannot ask torch which.
_FORMATS = ("torch.float32", "torch.bfloat16")


@dataclass(frozen=True)
class CacheOverview:
    """Counts of tensors, wanted and there. `unused` bytes belong to prompts of previews and of the
    health curves, to other models, resolutions or earlier captions."""

    pictures: int
    latents: int  # wanted: one a picture, another for its mirror image
    latents_ready: int
    texts: int  # captions wanted, equal ones counted once, and the empty one
    texts_ready: int
    buckets: tuple[tuple[Size, int], ...]  # width × height and pictures in it, the fullest first
    cropped: float  # mean share of a picture that falls away
    size: int  # bytes
    unused: int
    uncaptioned: int
    stale: tuple[tuple[str, tuple[str, ...]], ...]  # what is to be encoded: picture, and the parts that changed


def overview(asked: CacheSettings) -> CacheOverview:
    """Compare the dataset with its cache, as a training with these settings would.

    Pictures that were never decoded are not decoded now: they count as new. Raises ZitError for a folder without
    readable pictures and for a wrong model.
    """
    dataset, folder = Path(asked.dataset), find_model(asked.model)
    scan = scan_dataset(dataset, index.load_known(dataset), verify=False)
    built = index.load_built(dataset)
    resolutions = dict.fromkeys((asked.resolution or read_flavour(folder).pixels, *asked.further_resolutions))
    sizes, *others = (bucket_sizes(each, asked.enable_bucket) for each in resolutions)
    encoder = index.component_fingerprint(folder / "text_encoder", folder / "tokenizer")
    pictures = list(index.pictures(scan, sizes, index.component_fingerprint(folder / "vae"), others))
    lying = {path: path.stat().st_size for path in (dataset / CACHE_FOLDER).rglob("*.safetensors")}
    word = asked.trigger_word or scan.options.trigger_word
    told = {item.name: [with_trigger(text, word) for text in item.captions or (None,)] for item in scan.items}
    parts = {form: _text_parts(told, encoder, asked.max_sequence_length, form) for form in _FORMATS}
    ready = {form: {key for key in _keys(found) if index.text_path(dataset, key) in lying}
             for form, found in parts.items()}  # fmt: skip
    form = max(_FORMATS, key=lambda one: len(ready[one]))

    wanted: dict[str, list[Parts]] = {}
    for picture in pictures:
        wanted.setdefault(picture.item.name, []).append(picture.parts())
    latents = _keys(wanted)
    latents_ready = {key for key in latents if index.latents_path(dataset, key) in lying}
    stale = {name: why for name, why in _stale(wanted, built, "latents", latents_ready)}
    for name, why in _stale(parts[form], built, "texts", ready[form]):
        stale[name] = tuple(dict.fromkeys((*stale.get(name, ()), *why)))
    used = {index.latents_path(dataset, key) for key in latents_ready}
    used |= {index.text_path(dataset, key) for keys in ready.values() for key in keys}
    texts = {text for texts in told.values() for text in texts if text} | {""}
    return CacheOverview(
        pictures=len(scan.items),
        latents=len(latents),
        latents_ready=len(latents_ready),
        texts=len(texts),
        texts_ready=len(ready[form]),
        buckets=tuple(Counter(picture.crop.size for picture in pictures if not picture.mirrored).most_common()),
        cropped=sum(picture.crop.lost for picture in pictures) / len(pictures),
        size=sum(lying.values()),
        unused=sum(size for path, size in lying.items() if path not in used),
        uncaptioned=0 if word else len(scan.uncaptioned),
        stale=tuple(stale.items()),
    )


def clear(dataset: Path) -> None:
    """Remove the cached tensors of a dataset; pictures, captions and what was measured stay."""
    if not dataset.is_dir():
        raise ZitError(f"There is no dataset folder {dataset}.", "Choose one that exists.")
    for name in ("latents", "text"):
        shutil.rmtree(dataset / CACHE_FOLDER / name, ignore_errors=True)
    (dataset / CACHE_FOLDER / "built.jsonl").unlink(missing_ok=True)


def _text_parts(told: Mapping[str, list[str]], encoder: str, max_length: int, form: str) -> dict[str, list[Parts]]:
    """By picture what its captions' features depend on; under "" those of the empty prompt."""
    return {
        name: [index.text_parts(text, encoder, max_length, form) for text in texts if text or not name]
        for name, texts in {**told, "": [""]}.items()
    }


def _keys(parts: Mapping[str, list[Parts]]) -> set[str]:
    return {index.fingerprint(one) for each in parts.values() for one in each}


def _stale(
    wanted: Mapping[str, list[Parts]], built: Mapping[str, Any], kind: str, ready: set[str]
) -> Iterable[tuple[str, tuple[str, ...]]]:
    for name, parts in wanted.items():
        before = built.get(name, {}).get(kind, [])
        reasons: list[str] = []
        for i, one in enumerate(parts):
            if name and index.fingerprint(one) not in ready:
                reasons += index.why(before[i] if i < len(before) else None, one) or ["lost"]
        if reasons:
            yield name, tuple(dict.fromkeys(reasons))
