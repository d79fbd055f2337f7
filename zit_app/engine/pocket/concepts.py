"""Concepts of the pocket world: which emoji exist in every art style, their names, and who may see them.

Sources (npm packages, fetched with ``npm pack`` into the work folder, never committed):
``@lobehub/fluent-emoji-3d`` and ``-flat`` (MIT), ``@iconify-json/noto`` (Apache-2.0), ``emojibase-data`` (MIT)
for the known styles; ``@twemoji/svg`` (art CC-BY 4.0) and ``fluentui-emoji`` (MIT) for the held-out ones.
"""

import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "@lobehub/fluent-emoji-flat@1.1.0",
    "noto": "@iconify-json/noto@1.2.9",
    "names": "emojibase-data@17.0.0",
    "twemoji": "@twemoji/svg@15.0.0",
    "contrast": "fluentui-emoji@1.3.0",
}
KNOWN_STYLES = ("3d", "flat", "classic")
HELD_OUT_STYLES = ("twemoji", "contrast")
# emojibase groups: 0 smileys, 3 animals and nature, 4 food and drink, 6 activities
VOCABULARY_GROUPS = (0, 3, 4, 6)
# 1 people, 5 travel, 7 objects, 8 symbols: never in the pocket model's training
OUTSIDE_GROUPS = (1, 5, 7, 8)


@dataclass(frozen=True)
class Concept:
    """One emoji that exists in every known style."""

    key: str  # code points, lower case, without the variation selector
    group: int
    en: str
    zh: str
    files: dict[str, str]  # style -> file (or icon name inside the Noto collection)


def fetch_packages(work: Path) -> dict[str, Path]:
    """Unpack every source package below ``work/packages`` (once) and return their folders."""
    folders = {}
    for name, spec in PACKAGES.items():
        folder = work / "packages" / name
        if not (folder / "package").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            packed = subprocess.run(
                ["npm", "pack", "--silent", spec], cwd=folder, check=True, capture_output=True, text=True
            ).stdout.strip()
            with tarfile.open(folder / packed.splitlines()[-1]) as archive:
                archive.extractall(folder, filter="data")
        folders[name] = folder / "package"
    return folders


def plain_key(code_points: str) -> str:
    """Lower-case code points without U+FE0F: the one form in which all packages agree."""
    return "-".join(part for part in code_points.lower().split("-") if part != "fe0f")


def _files_by_key(folder: Path, suffix: str) -> dict[str, str]:
    return {plain_key(path.stem): str(path) for path in sorted(folder.glob(f"*{suffix}"))}


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower().replace("’", "").replace("'", "")).strip("-")


def read_concepts(packages: dict[str, Path], groups: tuple[int, ...]) -> list[Concept]:
    """Every emoji of ``groups`` that exists in all three known styles, in Unicode order, base skin tone only."""
    fluent_3d = _files_by_key(packages["3d"] / "assets", ".webp")
    fluent_flat = _files_by_key(packages["flat"] / "assets", ".svg")
    twemoji = _files_by_key(packages["twemoji"], ".svg")
    contrast = {path.stem: str(path) for path in (packages["contrast"] / "icons" / "high-contrast").glob("*.svg")}
    noto = {plain_key(code): icon for code, icon in json.loads((packages["noto"] / "chars.json").read_text()).items()}
    english = json.loads((packages["names"] / "en" / "data.json").read_text())
    chinese = {e["hexcode"]: e["label"] for e in json.loads((packages["names"] / "zh" / "data.json").read_text())}

    concepts = []
    for emoji in sorted(english, key=lambda e: e.get("order", 0)):
        key = plain_key(emoji["hexcode"])
        in_all = key in fluent_3d and key in fluent_flat and key in noto
        if emoji.get("group") not in groups or not in_all:
            continue
        files = {"3d": fluent_3d[key], "flat": fluent_flat[key], "classic": noto[key]}
        if key in twemoji:
            files["twemoji"] = twemoji[key]
        if _slug(emoji["label"]) in contrast:
            files["contrast"] = contrast[_slug(emoji["label"])]
        name = emoji["label"].lower().replace(": ", " ").replace("“", "").replace("”", "")
        concepts.append(Concept(key, emoji["group"], name, chinese[emoji["hexcode"]].replace(": ", ""), files))
    return concepts
