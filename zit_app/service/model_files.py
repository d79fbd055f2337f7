"""The models of this machine: where they lie, how big they are, whether they are whole."""

from dataclasses import dataclass, replace
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.models import POCKET, check_folder, list_models, read_flavour, weight_files
from zit_app.core.run import Run
from zit_app.core.single_files import SOURCE
from zit_app.service.downloads import MODELS, newest, settings_of


@dataclass(frozen=True)
class ModelFile:
    """One model. steps, guidance and pixels are what it is meant to be run at; 0 while it is not here."""

    name: str
    path: Path
    size: int  # bytes
    state: str  # "ready", "missing", "incomplete"
    note: str  # what is wrong, "" when nothing is
    pixels: int
    steps: int
    guidance: float
    source: str  # "embedded", "hub", "modelscope", "mirror" (downloaded), "file" (single file), "folder", "" (not here)
    origin: str  # repository, mirror, or the single file; "" when there is none to tell


def models() -> list[ModelFile]:
    """The known models, here or not, and whatever else lies in the models folder."""
    return [_with_source(_model(info.name, info.path, info.ready)) for info in list_models()]


def _with_source(model: ModelFile) -> ModelFile:
    """Where a model came from, as far as its folder and the downloads tell."""
    if model.name in POCKET:
        return replace(model, source="embedded")
    record = model.path / "transformer" / SOURCE
    if record.is_file():
        return replace(model, source="file", origin=str(read_json(record)["file"]))
    download = newest(model.name)
    if download is not None and model.state != "missing":
        made = settings_of(Run(download.folder))
        origin = made.endpoint or MODELS.get(made.model, made.model)
        return replace(model, source="mirror" if made.endpoint else made.source, origin=origin)
    return model if model.state == "missing" else replace(model, source="folder")


def _model(name: str, path: Path, ready: bool) -> ModelFile:
    if not ready:
        begun = _size(path) if path.is_dir() else 0
        note = "Only a part of it is here; download it to the end." if begun else ""
        return ModelFile(name, path, begun, "incomplete" if begun else "missing", note, 0, 0, 0.0, "", "")
    place = path
    if name in POCKET and not (path / "model_index.json").is_file():  # assembled at first use
        place = paths.assets() / "pocket" / name
        flavour = read_flavour(place)
        size = _size(place) + _size(place.parent / "shared")
        return ModelFile(name, path, size, "ready", "", flavour.pixels, flavour.steps, flavour.guidance, "", "")
    try:
        check_folder(path)
        for part in ("transformer", "vae", "text_encoder"):
            weight_files(path / part)
    except ZitError as error:
        return ModelFile(name, path, _size(path), "incomplete", str(error), 0, 0, 0.0, "", "")
    flavour = read_flavour(path)
    return ModelFile(name, path, _size(path), "ready", "", flavour.pixels, flavour.steps, flavour.guidance, "", "")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
