"""`dataset.toml` in a dataset folder: what belongs to these pictures, whatever is trained on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from PIL import ImageColor

from zit_app.core.errors import ZitError
from zit_app.core.files import write_atomic
from zit_app.core.settings import describe, from_mapping, parse_toml, setting

FILE = "dataset.toml"


@dataclass(frozen=True)
class DatasetOptions:
    """The table `[dataset]` of `dataset.toml`."""

    trigger_word: str = setting("", "Word put before every caption, unless the training names another")
    repeats: int = setting(1, "Times a picture counts in an epoch", minimum=1, maximum=1000)
    background: str = setting("white", "Colour behind transparent pictures: a name or #rrggbb")
    flip: bool = setting(False, "Train each picture mirrored as well; not for faces, text and one-sided things")
    masks: str = setting("", "Folder below the dataset with a mask for each picture, of the same name")
    categories: tuple[str, ...] = setting((), "Only pictures of these categories; empty = all")
    balance: str = setting(
        "none", "category: pictures of rare categories count more often", choices=("none", "category")
    )


def read_options(folder: Path) -> tuple[DatasetOptions, dict[str, int]]:
    """The options of a dataset and its table `[folders]`: folder name → times its pictures count.

    Raises ZitError for what is no TOML, an unknown key, a value out of range, a colour that is none.
    """
    path = folder / FILE
    if not path.is_file():
        return DatasetOptions(), {}
    try:
        tables = parse_toml(path.read_text(encoding="utf-8-sig"), FILE)
    except UnicodeDecodeError as error:
        raise ZitError(f"{path} is not UTF-8 text.", "Save it again as UTF-8.") from error
    unknown = tables.keys() - {"dataset", "folders"}
    if unknown:
        raise ZitError(f"{FILE}: unknown table [{min(unknown)}].", "Known: [dataset], [folders].")
    options = from_mapping(DatasetOptions, tables.get("dataset", {}), f"{FILE} [dataset]")
    folders = tables.get("folders", {})
    for name, count in folders.items():
        if type(count) is not int or not 1 <= count <= 1000:
            raise ZitError(f"{FILE} [folders]: {name} = {count!r} is not allowed.", "Allowed: 1 to 1000.")
    _check_colour(options.background)
    masks = Path(options.masks)
    if masks.is_absolute() or ".." in masks.parts:
        raise ZitError(f"{FILE}: masks = {options.masks!r} lies outside the dataset.", "Name a folder inside it.")
    return options, folders


def write_options(folder: Path, changes: dict[str, Any]) -> None:
    """Set keys of `[dataset]`; everything else in the file, comments too, stays. A default is taken out again."""
    path = folder / FILE
    document = tomlkit.parse(path.read_text(encoding="utf-8-sig")) if path.is_file() else tomlkit.document()
    table = document.setdefault("dataset", tomlkit.table())
    defaults = {info.name: info.default for info in describe(DatasetOptions)}
    from_mapping(DatasetOptions, changes, f"{FILE} [dataset]")
    _check_colour(changes.get("background", "white"))
    for name, value in changes.items():
        if value == defaults[name]:
            table.pop(name, None)
        else:
            table[name] = value
    text = tomlkit.dumps(document)
    if not path.is_file() or path.read_text(encoding="utf-8-sig") != text:
        write_atomic(path, text)


def _check_colour(background: str) -> None:
    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise ZitError(f"{background!r} is not a colour.", "Write a name such as white, or #rrggbb.") from error
