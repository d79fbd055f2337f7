"""Which models there are, and where their folders lie."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zit_app.core import paths
from zit_app.core.checkpoints import ENDINGS
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.files import read_json, replacing, sha256_of, write_json
from zit_app.core.flavours import BASE, OMNI_CLASS, TURBO, Flavour, Limits, read_flavour, read_limits
from zit_app.core.headers import read_header
from zit_app.core.single_files import PARTS, SOURCE, adopt_file, source_of

__all__ = [
    "BASE",
    "PARTS",
    "TURBO",
    "Flavour",
    "Limits",
    "ModelInfo",
    "assemble_pocket",
    "check_folder",
    "default_model",
    "find_model",
    "list_models",
    "read_flavour",
    "read_limits",
    "weight_files",
]

POCKET = ("pocket", "pocket-base")
FOLDERS = {"turbo": "Z-Image-Turbo", "base": "Z-Image"}
SIGHT = ("siglip", "siglip_processor")  # of an Omni, which looks at pictures
STAMP = "assembled.json"  # file → SHA-256 of what the folder was assembled from


@dataclass(frozen=True)
class ModelInfo:
    """One line of ``zit models list``."""

    name: str
    path: Path
    ready: bool


def list_models() -> list[ModelInfo]:
    """The named models and whatever else lies in the home's models folder."""
    known = [ModelInfo(name, paths.models() / name, (paths.assets() / "pocket" / name).is_dir()) for name in POCKET]
    known += [
        ModelInfo(name, paths.models() / folder, (paths.models() / folder / "model_index.json").is_file())
        for name, folder in FOLDERS.items()
    ]
    named = {model.path.name for model in known}
    others = sorted(entry.parent for entry in paths.models().glob("*/model_index.json"))
    return known + [ModelInfo(folder.name, folder, True) for folder in others if folder.name not in named]


def default_model() -> str | None:
    """The name of the model to begin with: Turbo where it is, else the embedded one, else whatever there is."""
    ready = [model.name for model in list_models() if model.ready]
    return next((name for name in ("turbo", "pocket", *ready) if name in ready), None)


def find_model(model: str | Path) -> Path:
    """The diffusers folder of a model given by name or path, checked; the pocket models are assembled when needed.

    Raises ZitError when there is no such model or the folder is not a Z-Image.
    """
    name_or_path = str(model)
    if name_or_path in POCKET:
        return assemble_pocket(name_or_path)
    given = Path(name_or_path).expanduser()
    if given.is_file() and given.suffix.lower() in ENDINGS:
        return adopt_file(given.absolute(), _donors())
    stored = paths.models() / FOLDERS.get(name_or_path, name_or_path)
    if given.exists():
        folder = given
    elif stored.is_dir():
        folder = stored
    elif name_or_path in FOLDERS:
        raise ZitError(
            f"The model {name_or_path!r} is not on this machine.",
            f"Download it (zit models download {name_or_path}), put its folder at {stored}, or give a path.",
        )
    else:
        remedy = did_you_mean(name_or_path, [model.name for model in list_models()])
        raise ZitError(
            f"There is no model {name_or_path!r}.", f"{remedy} A folder, .safetensors or .gguf file can be given, too."
        )
    check_folder(folder)
    return folder


def check_folder(folder: Path) -> None:
    """Raises ZitError when a folder does not hold all parts of a Z-Image in diffusers' layout."""
    remedy = "Give a folder with model_index.json, transformer, vae, text_encoder, tokenizer and scheduler."
    index = folder / "model_index.json"
    if not index.is_file():
        raise ZitError(f"{folder} is not a diffusers model folder.", remedy)
    kind = read_json(index).get("_class_name")
    if kind not in ("ZImagePipeline", OMNI_CLASS):
        raise ZitError(f"{folder} holds a {kind}, not a Z-Image.", "Give the folder of a Z-Image model.")
    parts = (*PARTS, *SIGHT) if kind == OMNI_CLASS else PARTS
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ZitError(
            f"{folder} is incomplete: {', '.join(missing)} missing.", "Copy or download it again.", "weights"
        )


def weight_files(folder: Path) -> list[Path]:
    """The weight files of one part, checked for being whole; raises ZitError naming the file that is not.

    Of a transformer that was brought as a single file it is that file, wherever it lies.
    """
    source = source_of(folder)
    if source is not None:
        return [source]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ZitError(f"{folder} holds no safetensors file.", "Get the safetensors version of this model.")
    for file in files:
        try:
            read_header(file)
        except ZitError as error:
            raise ZitError(error.what, error.remedy, "weights") from error
    return files


def assemble_pocket(name: str) -> Path:
    """Copy the parts of a pocket model into one complete folder of the home; quick when it is there already."""
    source, target = paths.assets() / "pocket", paths.models() / name
    if not (source / name / "model_index.json").is_file():
        raise ZitError(f"The model {name!r} is not part of this copy of the project.", "Get the complete project.")
    files = {
        file.relative_to(root): file
        for root in (source / "shared", source / name)
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }
    wanted = {relative.as_posix(): sha256_of(file) for relative, file in files.items()}
    stamp = target / STAMP
    if stamp.is_file() and read_json(stamp) == wanted and all(_same_size(target / k, files[k]) for k in files):
        return target
    for relative, file in files.items():
        with replacing(target / relative) as temporary:
            shutil.copyfile(file, temporary)
    write_json(stamp, wanted)
    return target


def _same_size(copy: Path, original: Path) -> bool:
    return copy.is_file() and copy.stat().st_size == original.stat().st_size


def _donors() -> Iterator[Path]:
    """Folders that a single-file transformer may take the other parts from, complete models first."""
    named = [paths.models() / folder for folder in FOLDERS.values()]
    others = sorted(folder for folder in paths.models().glob("*/") if folder not in named)
    yield from (folder for folder in [*named, *others] if not (folder / "transformer" / SOURCE).is_file())
    for name in POCKET:
        if (paths.assets() / "pocket" / name).is_dir():
            yield assemble_pocket(name)
