"""What is wrong with the pictures of a dataset, and what to do about it.

`python -m tests.health_figures` measures how many planted defects the bounds find, and how many untouched pictures they
blame, also among emoji that they were not chosen on; docs/dataset.md has the table.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from zit_app.data.captions import estimated_tokens
from zit_app.data.formats import FORMATS
from zit_app.data.health.likeness import Signature, duplicates, signature
from zit_app.data.health.measure import Measures, measure_all, thumbnail_path
from zit_app.data.health.opinions import Opinion, load_opinions
from zit_app.data.health.writing import Written, read_all, unsaid
from zit_app.data.index import load_known, save_known
from zit_app.data.pictures import DatasetScan, Item, scan_dataset
from zit_app.data.reading import letters

BLURRED = 3.5  # pixels of the sharpest edges: a Gaussian of σ 1.5
BLOCKY, BLOCKY_JPEG = 0.06, 0.09  # blockiness; a JPEG of good tables may have had a better reason
POOR_QUALITY = 55  # of a JPEG's tables
ENLARGED = 2.0  # times that a picture would be enlarged
DARK, BRIGHT, FLAT = 60.0, 215.0, 40.0  # levels: of the brightest, of the darkest, and between them
LONGEST = 500  # tokens of a caption; the template takes the rest of 512
WIDE = 0.2  # share of a picture that no bucket can hold
CROPS_UP_TO = 2000  # pictures among which crops of each other are sought
FEW, MANY = 9, 25  # pictures: the advice for a person or a thing
MARKED = 3  # pictures in which the same words stand, from which they are taken for a watermark

ADVICE = {
    "small": "It would be enlarged more than twice: find a larger version, or train at a lower resolution.",
    "blurry": "No edge in it is sharp: take a sharper version, or the model learns blur.",
    "blocky": "JPEG has left blocks in it: find the original, a better saved one or leave it out.",
    "letterbox": "It has bars above and below: crop them away, or the model learns to draw them.",
    "pillarbox": "It has bars left and right: crop them away, or the model learns to draw them.",
    "frame": "It has a frame all around: crop it away, or the model learns to draw it.",
    "dark": "It is nearly black: brighten it or leave it out.",
    "bright": "It is nearly white: leave it out unless that is its look.",
    "low_contrast": "It has hardly any contrast: leave it out unless that is its look.",
    "wide": "It is so long that a good part of it is cropped away: cut it into pieces.",
    "duplicate_of": "It is the same picture as {other}: keep one of them, or it counts twice.",
    "no_caption": "It has no caption: write what it shows, or use a trigger word.",
    "long_caption": "Its caption is longer than the text encoder reads: shorten it; the end is not seen.",
    "repeated_caption": "Other pictures have the same caption: say what is different in this one.",
    "writing": "Writing is in it: crop or retouch a watermark or date, quote in its caption what belongs there.",
    "other_caption": "Half of the other captions fit it better than its own: is it the caption of another picture?",
    "plain_looks": "The aesthetic model likes it little: leave it out unless it shows what no other picture does.",
    "wrong_extension": "Its name ends as if it were another format: other programs may refuse it.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One picture: its flags by name (see `ADVICE`), which picture it repeats, and what stands in it."""

    file: str
    flags: tuple[str, ...] = ()
    duplicate_of: str = ""
    writing: tuple[str, ...] = ()
    agreement: float | None = None  # of picture and caption, where a CLIP has looked at both
    aesthetic: float | None = None

    @property
    def advice(self) -> str:
        """What to do about the flags, "" without any."""
        return " ".join(ADVICE[flag].format(other=self.duplicate_of) for flag in self.flags)


_WHERE_KNOWN = ("duplicate_of", "writing", "agreement", "aesthetic")  # of a finding, in the report only then


@dataclass(frozen=True)
class Report:
    """The health of a dataset."""

    pictures: tuple[Finding, ...]
    unreadable: tuple[tuple[str, str], ...]  # file, reason
    set: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report of `zit check --json`."""
        return {
            "pictures": [
                {"file": one.file, "flags": list(one.flags), "advice": one.advice}
                | {key: value for key in _WHERE_KNOWN if (value := getattr(one, key)) not in ("", (), None)}
                for one in self.pictures
            ],
            "unreadable": [{"file": name, "reason": reason} for name, reason in self.unreadable],
            "set": self.set,
        }


def check(folder: Path, pixels: int = 1024, told: Callable[[int], None] = lambda done: None) -> Report:
    """Look at every picture of a dataset. `pixels`² is what it will be trained at.

    Raises ZitError for a folder without readable pictures.
    """
    scan = scan_dataset(folder, load_known(folder))
    save_known(scan)
    measures = measure_all(folder, scan.items, told)
    written = read_all(folder, scan.items, lambda done: told(len(scan.items) + done))
    return judge(scan, measures, pixels, find_repeats(scan, measures), written, load_opinions(folder))


def judge(
    scan: DatasetScan,
    measures: Mapping[str, Measures],
    pixels: int,
    repeats: Mapping[str, str],
    written: Written,
    opinions: Mapping[str, Opinion],
) -> Report:
    """Flags and figures from what is known of the pictures, which need not be everything."""
    told = Counter(caption for item in scan.items for caption in item.captions)
    findings = []
    for item in scan.items:
        lines, opinion = written.get(item.sha256, ()), opinions.get(item.sha256)
        flags = [
            *(picture_flags(item, measures[item.sha256], pixels) if item.sha256 in measures else ()),
            *(["writing"] if unsaid(lines, item.captions) else []),
            *(["duplicate_of"] if item.name in repeats else []),
            *_caption_flags(item, told),
            *(opinion.flags(item.captions) if opinion else []),
        ]
        agreement = opinion.agreement if opinion and opinion.caption in item.captions else None
        aesthetic = opinion.aesthetic if opinion else None
        findings.append(
            Finding(item.name, tuple(flags), repeats.get(item.name, ""), tuple(lines), agreement, aesthetic)
        )
    unreadable = tuple((one.name, one.reason) for one in scan.skipped)
    return Report(tuple(findings), unreadable, _summary(scan, findings, repeats))


def picture_flags(item: Item, found: Measures, pixels: int) -> list[str]:
    """What is wrong with one picture by itself."""
    width, height = item.size
    aspect = max(width / height, height / width)
    wanted = {
        "small": pixels / math.sqrt(width * height) > ENLARGED,
        "blurry": found.edges > BLURRED,
        "blocky": _blocky(found),
        "dark": found.brightest < DARK,
        "bright": found.darkest > BRIGHT,
        "low_contrast": found.brightest >= DARK and found.darkest <= BRIGHT and found.brightest - found.darkest < FLAT,
        "wide": 1 - 4 / aspect > WIDE,  # 4: aspect of the widest bucket
        "wrong_extension": FORMATS[item.path.suffix.lower()] != found.format.replace("MPO", "JPEG"),
    }
    return [flag for flag, raised in wanted.items() if raised] + ([found.bar_kind] if found.bar_kind else [])


def _blocky(found: Measures) -> bool:
    if found.quality is not None:
        return found.quality < POOR_QUALITY or found.blocks > BLOCKY_JPEG
    return found.blocks > BLOCKY


def _caption_flags(item: Item, told: Counter[str]) -> list[str]:
    if not item.captions:
        return ["no_caption"]
    long = any(estimated_tokens(caption) > LONGEST for caption in item.captions)
    repeated = any(told[caption] > 1 for caption in item.captions)
    return ["long_caption"] * long + ["repeated_caption"] * repeated


def find_repeats(scan: DatasetScan, measures: Mapping[str, Measures]) -> dict[str, str]:
    """By name of a picture the better one that it repeats: more detail, then older, then of the shorter name."""
    items = scan.items
    unique = {item.sha256: i for i, item in reversed(list(enumerate(items)))}
    leaders = sorted(unique.values())
    signs = [_signature(items[i], measures[items[i].sha256]) for i in leaders]
    pairs = [(leaders[a], leaders[b]) for a, b in duplicates(signs, crops=len(signs) <= CROPS_UP_TO)]
    pairs += [(unique[item.sha256], i) for i, item in enumerate(items) if unique[item.sha256] != i]
    group = list(range(len(items)))
    for a, b in pairs:
        old, new = group[b], group[a]
        group = [new if one == old else one for one in group] if old != new else group
    members: dict[int, list[Item]] = defaultdict(list)
    for item, number in zip(items, group, strict=True):
        members[number].append(item)

    def worth(item: Item) -> tuple[int, int, int, str]:
        found = measures[item.sha256]
        detail = math.sqrt(item.size[0] * item.size[1]) / min(20.0, max(1.0, found.edges))
        return -round(math.log(detail, 1.2)), item.stamp[1], len(item.name), item.name

    return {
        item.name: best.name
        for alike in members.values()
        if len(alike) > 1
        for best in [min(alike, key=worth)]
        for item in alike
        if item is not best
    }


def _signature(item: Item, found: Measures) -> Signature:
    """Of the thumbnail, without the bars: a letterboxed copy is a copy."""
    with Image.open(thumbnail_path(item)) as image:
        picture = image.convert("RGB")
    left, top, right, bottom = found.bars
    if not found.bar_kind:
        return signature(picture)
    width, height = picture.size
    box = (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    return signature(picture.crop(box))


def _summary(scan: DatasetScan, findings: list[Finding], repeats: Mapping[str, str]) -> dict[str, Any]:
    count = len(scan.items)
    aspects = Counter(_aspect(item) for item in scan.items)
    words = Counter(word for item in scan.items for caption in item.captions for word in set(_words(caption)))
    advice = []
    if count - len(repeats) < FEW:
        advice.append(f"{FEW} to {MANY} good, varied pictures are best for a person or a thing, more for a style.")
    if len(repeats) > 0.1 * count:
        advice.append(f"{len(repeats)} pictures repeat others; each repetition counts as one more.")
    common = aspects.most_common(1)[0]
    if count >= FEW and common[1] == count and common[0] != "square":
        advice.append(f"All pictures are {common[0]}: the model may become worse at other shapes.")
    lines = Counter(letters(line) for one in findings for line in set(one.writing))
    for line, times in lines.most_common(1):
        if times >= MARKED:
            advice.append(f"The same writing stands in {times} pictures ({line}): a watermark?")
    captioned = sum(bool(item.captions) for item in scan.items)
    always = [word for word, times in words.most_common(8) if captioned >= FEW and times == captioned]
    if always:
        advice.append(f"In every caption: {', '.join(always)}. What is always said acts like a trigger word.")
    return {
        "count": count,
        "unreadable": len(scan.skipped),
        "flags": dict(Counter(flag for one in findings for flag in one.flags)),
        "aspects": dict(aspects),
        "categories": dict(Counter(item.category for item in scan.items if item.category)),
        "duplicates": len(repeats),
        "captioned": captioned,
        "vocabulary": len(words),
        "common_words": [word for word, _ in words.most_common(10)],
        "median_pixels": int(np.median([item.size[0] * item.size[1] for item in scan.items])),
        "advice": advice,
    }


def _aspect(item: Item) -> str:
    ratio = item.size[0] / item.size[1]
    return "square" if 0.9 < ratio < 1.12 else "landscape" if ratio > 1 else "portrait"


def _words(caption: str) -> list[str]:
    """Words of a caption; Chinese is taken in pairs of characters."""
    chinese = re.findall(r"[\u4e00-\u9fff]+", caption)
    pairs = [run[i : i + 2] for run in chinese for i in range(max(1, len(run) - 1))]
    return [word for word in re.findall(r"[^\W\d_\u4e00-\u9fff]{3,}", caption.lower())] + pairs
