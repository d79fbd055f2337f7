"""Single-file transformers as model folders: the file stays where it is, the folder says how it is used.

<home>/models/<name>/transformer/config.json    made from the file's head
<home>/models/<name>/transformer/source.json    where the file lies, and its content's hash
<home>/models/<name>/vae, text_encoder, …       those of a model that is here, as hard links where the disk can
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from zit_app.core import paths
from zit_app.core.checkpoints import Checkpoint, describe_file
from zit_app.core.errors import ZitError
from zit_app.core.files import content_hash, read_json, write_json, writing
from zit_app.core.flavours import TURBO, flavour_by_name, read_flavour
from zit_app.core.part_files import SCHEDULER, PartFile, other_parts

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
SOURCE = "source.json"
_SHAPE = ("in_channels", "dim", "n_layers", "n_refiner_layers", "n_heads", "cap_feat_dim", "siglip_feat_dim")
_INDEX = {
    "_class_name": "ZImagePipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def adopt_file(file: Path, donors: Iterable[Path]) -> Path:
    """The model folder of a single-file transformer; made when it is new, renewed when the file has changed.

    Raises ZitError when the file is no Z-Image, is damaged, or when no donor has a text encoder that fits it.
    """
    found = describe_file(file)
    stamp = _stamp(file)
    for known in sorted(paths.models().glob(f"*/transformer/{SOURCE}")):
        recorded = read_json(known)
        if {key: recorded.get(key) for key in stamp} == stamp and _whole(known.parents[1]):
            return known.parents[1]
    folder = _folder(file, content_hash(file))
    others = other_parts(found, donors)
    for name, part in (("text_encoder", others.text_encoder), ("vae", others.vae), ("tokenizer", others.tokenizer)):
        if isinstance(part, PartFile):
            _record(folder / name, part.path, part.prefix, part.config)
        else:
            _link(part, folder / name)
    flavour = _flavour(file, others.donor)
    write_json(folder / "scheduler" / "scheduler_config.json", {**SCHEDULER, "shift": flavour["shift"]})
    write_json(folder / "flavour.json", {"zit_flavour": flavour})
    _record(folder / "transformer", file, found.prefix, _config(found, others.donor))
    write_json(folder / "model_index.json", _INDEX)  # last: with it the folder counts as a model
    return folder


def source_of(part: Path) -> Path | None:
    """The file behind a part's folder, None for one with weights of its own.

    Raises ZitError when that file is gone or has been changed.
    """
    record = part / SOURCE
    if not record.is_file():
        return None
    known = read_json(record)
    file = Path(known["file"])
    if not file.is_file():
        raise ZitError(f"{file} is gone, and this model with it.", "Put it back or give its new place.", "weights")
    if (file.stat().st_size, file.stat().st_mtime_ns) != (known["size"], known["mtime_ns"]):
        raise ZitError(f"{file} has changed.", "Give the file with --model once more.", "weights")
    return file


def prefix_of(part: Path) -> str:
    """What stands before the keys of a part in its file."""
    return str(read_json(part / SOURCE)["prefix"])


def _whole(folder: Path) -> bool:
    """Whether the files behind all parts are where they were."""
    try:
        for part in PARTS:
            source_of(folder / part)
    except ZitError:
        return False
    return (folder / "model_index.json").is_file()


def _record(part: Path, file: Path, prefix: str, config: dict[str, Any]) -> None:
    """Make the folder of a part that lies in a file."""
    write_json(part / "config.json", config)
    write_json(part / SOURCE, {**_stamp(file), "prefix": prefix, "content": content_hash(file)})


def _stamp(file: Path) -> dict[str, Any]:
    return {"file": str(file), "size": file.stat().st_size, "mtime_ns": file.stat().st_mtime_ns}


def _folder(file: Path, content: str) -> Path:
    """Named like the file; with a piece of the hash when another file has that name already."""
    folder = paths.models() / file.stem
    record = folder / "transformer" / SOURCE
    same = record.is_file() and (read_json(record)["file"] == str(file) or read_json(record)["content"] == content)
    return folder if same or not folder.exists() else paths.models() / f"{file.stem}-{content[:8]}"


def _config(found: Checkpoint, donor: Path | None) -> dict[str, Any]:
    """The donor's configuration when it is the same model, since it knows the reach of the positions."""
    own = donor / "transformer" / "config.json" if donor else None
    if own is not None and own.is_file():
        config: dict[str, Any] = read_json(own)
        if all(config.get(key) == found.config[key] for key in _SHAPE):
            return config
    return found.config


def _flavour(file: Path, donor: Path | None) -> dict[str, Any]:
    """What the file's name tells of steps and guidance, else as the donor; pixels always as the donor."""
    given = read_flavour(donor) if donor and (donor / "model_index.json").is_file() else None
    told = flavour_by_name(file.stem) or given or TURBO
    return asdict(replace(told, pixels=given.pixels) if given else told)


def _link(source: Path, target: Path) -> None:
    """The files of a part, without a second copy of gigabytes; copied where the disk knows no hard links."""
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir()):
            place = target / file.name
            if file.is_file() and not file.name.endswith((".part", ".before")) and not place.exists():
                try:
                    os.link(file.resolve(), place)
                except OSError:
                    shutil.copyfile(file, place)
