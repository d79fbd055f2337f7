"""A dataset folder: pictures with a caption `NAME.txt` beside each, in the folder and in folders below it."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of
from zit_app.data.captions import TABLES, Listed, further_captions, read_caption, read_table, read_text, with_trigger
from zit_app.data.formats import EXTENSIONS, Size, header, open_picture, reason
from zit_app.data.options import DatasetOptions, read_options

_NAMED = 5  # file names spelled out in one message; the rest is counted
_THREADS = min(4, os.cpu_count() or 1)  # Pillow decodes outside Python's lock
_AT_ONCE = 256  # files handed to the threads together, so that 300,000 do not wait in memory
_LARGE = 24_000_000  # pixels; larger pictures are decoded one at a time
_one_large = threading.Lock()
_BALANCE_LIMIT = 20  # times that a picture of the rarest category may count


@dataclass(frozen=True, slots=True)
class Item:
    """One picture. `name` is its path below the dataset folder, with forward slashes."""

    folder: Path  # of the dataset
    name: str
    captions: tuple[str, ...]  # none, one, or several to choose from
    size: Size  # of the upright picture (EXIF rotation applied)
    sha256: str  # of the file's bytes; "" while only its header was read
    stamp: tuple[int, int]  # file size in bytes, modification time in ns: unchanged means not read again
    transparent: bool = False
    repeats: int = 1  # times it counts in an epoch
    category: str = ""  # as the table of captions says, else the first folder
    group: str = ""  # views of one thing have the same

    @property
    def path(self) -> Path:
        """Where the picture lies."""
        return self.folder / self.name

    @property
    def caption(self) -> str | None:
        """The first caption, None without one."""
        return self.captions[0] if self.captions else None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used; `reason` completes "NAME: …"."""

    name: str
    reason: str


@dataclass(frozen=True)
class DatasetScan:
    """What a dataset folder holds, in the order of the names."""

    folder: Path
    items: tuple[Item, ...]
    skipped: tuple[Skipped, ...]
    options: DatasetOptions = field(default_factory=DatasetOptions)

    @property
    def uncaptioned(self) -> list[str]:
        """The names of the pictures that have no caption of their own."""
        return [item.name for item in self.items if not item.captions]


def has_pictures(folder: Path) -> bool:
    """A quick look before anything is loaded: whether any file below the folder is named as a picture."""
    return any(file.suffix.lower() in EXTENSIONS for file in folder.rglob("*"))


def check_pictures(folder: Path) -> None:
    """Raises ZitError when the folder has no pictures by their names."""
    if not has_pictures(folder):
        raise _nothing(folder, [])


def scan_dataset(folder: Path, known: Mapping[str, Item] | None = None, verify: bool = True) -> DatasetScan:
    """Read every picture of a folder once, to its last byte: a truncated one is found here and not while training.

    Unreadable pictures are skipped and named. `known` are the items of an earlier scan by name: a file of the same
    size and time is not decoded again. Hidden files and folders (macOS' `._x.jpg`, our cache) are not looked at.
    Without `verify` only headers are read: fast enough to list a catalogue.

    Raises ZitError when the folder is missing, holds no picture, or none that can be read.
    """
    if not folder.is_dir():
        raise ZitError(f"There is no dataset folder {folder}.", "Give the path of a folder with pictures.")
    options, folders = read_options(folder)
    listed: dict[str, Listed] = {}
    skipped: list[Skipped] = []
    inspect = partial(_inspected, folder, known or {}, listed, verify)
    items: list[Item] = []
    found = _picture_files(folder, options.masks, listed, skipped)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(found, _AT_ONCE)):
            for item, problems in pool.map(inspect, batch):
                skipped += problems
                items += [item] if item else []
    if not items:
        raise _nothing(folder, skipped)
    if options.categories:
        kept = [item for item in items if item.category in options.categories]
        if not kept:
            there = _spoken(sorted({item.category for item in items}), 20)
            raise ZitError(f"No picture in {folder} is of the chosen categories.", f"There are: {there}.")
        items = kept
    items = _counted(items, options, folders)
    return DatasetScan(folder, tuple(items), tuple(skipped), options)


def captions(scan: DatasetScan, trigger_word: str = "") -> list[tuple[str, ...]]:
    """What to train each picture on: its captions, with the trigger word in front where it does not occur already.

    The word is that of `dataset.toml` when none is given. A picture without a caption is trained on it alone. Without
    either there is nothing that a prompt could call the picture by, so that is an error and not an empty caption.
    """
    word = trigger_word or scan.options.trigger_word
    if not word and scan.uncaptioned:
        raise ZitError(
            f"{len(scan.uncaptioned)} of {len(scan.items)} pictures in {scan.folder} have no caption"
            f" ({_spoken(scan.uncaptioned)}).",
            "Write what each shows into NAME.txt beside it, or set dataset.trigger_word to use that word instead.",
        )
    return [tuple(with_trigger(text, word) for text in item.captions or (None,)) for item in scan.items]


def _picture_files(
    folder: Path, masks: str, listed: dict[str, Listed], skipped: list[Skipped]
) -> Iterator[tuple[os.DirEntry[str], set[str]]]:
    """Picture files below a folder in the order of their names, each with the names beside it.

    Tables of captions on the way are read into `listed`. Linked folders are not entered, so no link leads in a circle;
    what only looks like a picture is named.
    """
    mask_folder = folder / masks if masks else None

    def walk(place: str) -> Iterator[tuple[os.DirEntry[str], set[str]]]:
        with os.scandir(place) as entries:
            here = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        names = {entry.name for entry in here}
        if not names.isdisjoint(TABLES):
            _take_table(folder, Path(place), listed, skipped)
        for entry in here:
            if entry.is_dir(follow_symlinks=False):
                if mask_folder is None or Path(entry.path) != mask_folder:
                    yield from walk(entry.path)
            elif why := _unusable(entry):
                skipped.append(Skipped(_shown(folder, entry), why))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry, names

    yield from walk(str(folder))


def _take_table(folder: Path, place: Path, listed: dict[str, Listed], skipped: list[Skipped]) -> None:
    """Add what a folder's table of captions says; one with mistakes is named, and its pictures have no captions."""
    below = place.relative_to(folder)
    try:
        listed |= {(below / name).as_posix(): row for name, row in read_table(place).items()}
    except ZitError as error:
        table = next(name for name in TABLES if (place / name).is_file())
        skipped.append(Skipped((below / table).as_posix(), error.what))


def _unusable(entry: os.DirEntry[str]) -> str:
    """Why a directory entry is no file of ours although it may look like one; "" when there is nothing to say."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is not Unicode; rename it"
    picture = os.path.splitext(entry.name)[1].lower() in EXTENSIONS
    if entry.is_symlink():
        if os.path.isdir(entry.path):
            return "a link to a folder; linked folders are not looked into"
        if not os.path.exists(entry.path):
            return "a link that leads nowhere"
    return "not a regular file" if picture and not entry.is_file() else ""


def _shown(folder: Path, entry: os.DirEntry[str]) -> str:
    return Path(entry.path).relative_to(folder).as_posix().encode("utf-8", "replace").decode()


def _inspected(
    folder: Path,
    known: Mapping[str, Item],
    listed: Mapping[str, Listed],
    verify: bool,
    found: tuple[os.DirEntry[str], set[str]],
) -> tuple[Item | None, list[Skipped]]:
    """One file as an item, or why it is none; a caption that cannot be read is named beside it."""
    entry, names = found
    path = Path(entry.path)
    name = path.relative_to(folder).as_posix()
    try:
        stat = entry.stat()
        stamp = (stat.st_size, stat.st_mtime_ns)
        item = known.get(name)
        if item is not None and item.stamp == stamp and (item.sha256 or not verify):
            size, digest, transparent = item.size, item.sha256, item.transparent
        else:
            size, digest, transparent = inspect(path, verify)
    # Pillow's readers raise whatever a broken file makes them trip over: OSError, SyntaxError, struct.error …
    except Exception as error:
        return None, [Skipped(name, reason(error, path))]
    row = listed.get(name, Listed())
    try:
        own = _own_captions(path, names)
        problems = []
    except ZitError as error:
        own, problems = (), [Skipped(name.removesuffix(path.suffix) + ".txt", error.what)]
    category = row.category or (name.split("/")[0] if "/" in name else "")
    return Item(folder, name, own or row.captions, size, digest, stamp, transparent, 1, category, row.group), problems


def inspect(path: Path, verify: bool = True) -> tuple[Size, str, bool]:
    """Size of the upright picture, SHA-256 of the file, and whether it is transparent; decodes all of it.

    Without `verify` the header is enough, and the hash is "".
    """
    with open_picture(path) as image:
        size, transparent = header(image), image.has_transparency_data
        if not verify:
            return size, "", transparent
        if image.width * image.height > _LARGE:
            with _one_large:
                image.load()
        else:
            image.load()
    return size, sha256_of(path), transparent


def _own_captions(path: Path, names: set[str]) -> tuple[str, ...]:
    if f"{path.stem}.txt" not in names:
        return ()
    texts = [read_caption(path), *(read_text(more) for more in further_captions(path, names))]
    return tuple(text for text in texts if text)


def _counted(items: list[Item], options: DatasetOptions, folders: Mapping[str, int]) -> list[Item]:
    """The items with the times each counts: of the dataset, of its folder, and of its category when balanced."""
    sizes = Counter(item.category for item in items) if options.balance == "category" else Counter[str]()
    most = max(sizes.values(), default=0)

    def times(item: Item) -> int:
        count = options.repeats
        if folders:
            for part in PurePosixPath(item.name).parts[:-1]:
                count *= folders.get(part, 1)
        return count * min(_BALANCE_LIMIT, round(most / sizes[item.category])) if sizes else count

    if options.repeats == 1 and not folders and not sizes:
        return items
    return [replace(item, repeats=times(item)) for item in items]


def _nothing(folder: Path, skipped: list[Skipped]) -> ZitError:
    if not skipped:
        return ZitError(f"{folder} holds no picture.", f"Put pictures into it ({_spoken(sorted(EXTENSIONS), 99)}).")
    return ZitError(
        f"None of the {len(skipped)} pictures in {folder} can be read ({_spoken([s.name for s in skipped])}).",
        "Replace them with whole files.",
    )


def _spoken(names: list[str], most: int = _NAMED) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
