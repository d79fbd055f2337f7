"""Downloads of models: runs of kind "download", each worked on by a small process of its own.

The process needs no card and no torch, so a download goes on while a training runs, and whatever happens to the page.
Started again it goes on where it stopped: whole files are known by their hash, the one in progress by its part.

    <home>/models/Z-Image-Turbo/.download.json   path → hash of the files that were verified
    <home>/models/Z-Image-Turbo/.download.lock   held by the process that downloads into the folder
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx

from zit_app.core import captioners, lock, paths, workers
from zit_app.core.errors import ZitError, did_you_mean
from zit_app.core.files import read_json, write_json, writing
from zit_app.core.models import FOLDERS, PARTS, SIGHT, check_folder
from zit_app.core.progress import Progress
from zit_app.core.quiet import quiet
from zit_app.core.run import Run
from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml
from zit_app.service.hubs import SOURCES, RemoteFile, address, host, list_files, new_client
from zit_app.service.runs import RunView, check_disk, list_runs
from zit_app.service.transfer import Advance, digest_of, fetch, part_of

MODELS = {"turbo": "Tongyi-MAI/Z-Image-Turbo", "base": "Tongyi-MAI/Z-Image"}
CAPTIONERS = {name: known.repo for name, known in captioners.KNOWN.items() if known.repo}
_REPOSITORIES = MODELS | CAPTIONERS
_INDEX, _CONFIG = "model_index.json", "config.json"
_WANTED = (".safetensors", ".json", ".txt", ".jinja")  # no pickles, no pictures
_LOOK_SECONDS = 0.25  # between two looks at what the owner asks


@dataclass(frozen=True)
class DownloadSettings:
    """The frozen input of a download."""

    model: str = setting("turbo", "turbo, base, OWNER/NAME of another Z-Image, or the name of a captioner")
    source: str = setting("hub", "Where it comes from: Hugging Face's hub or ModelScope", choices=SOURCES)
    endpoint: str = setting("", "Address of a mirror; empty = the source's own")
    without: tuple[str, ...] = setting((), "Parts to leave out, such as transformer for owners of a single-file one")


@dataclass(frozen=True)
class _DownloadFile:
    download: DownloadSettings


def create(settings: DownloadSettings) -> Run:
    """A download that nobody works on yet. Raises ZitError for an unknown model, part or source."""
    if "/" not in settings.model and settings.model not in _REPOSITORIES:
        raise ZitError(f"{settings.model!r} cannot be downloaded.", did_you_mean(settings.model, _REPOSITORIES))
    if settings.endpoint and not settings.endpoint.startswith(("http://", "https://")):
        raise ZitError(f"{settings.endpoint!r} is no address.", "Write such as https://mirror.example.")
    for part in settings.without:
        if part not in PARTS:
            raise ZitError(f"A model has no part {part!r}.", did_you_mean(part, PARTS))
    return Run.create("download", settings.model, to_toml(_DownloadFile(settings)))


def start(model: str, source: str = "hub", endpoint: str = "", without: tuple[str, ...] = ()) -> Run:
    """Begin a download in a process of its own. Raises ZitError when one works on that model already."""
    values = {"model": model, "source": source, "endpoint": endpoint, "without": without}
    settings = from_mapping(DownloadSettings, values, "")
    _refuse_two(folder_of(model))
    run = create(settings)
    _spawn(run)
    return run


def resume(run: Run) -> None:
    """Let a download that ended early go on. Raises ZitError when a process works on it."""
    _refuse_two(folder_of(settings_of(run).model))
    (run.folder / "control.json").unlink(missing_ok=True)
    Run.open(run.folder).write_status("queued", message="")
    _spawn(run)


def stop(run: Run) -> None:
    """Ask a download to stop; what has arrived stays."""
    run.request(stop=time.time())


def newest(model: str) -> RunView | None:
    """The last download of a model, None when there was none."""
    return next((view for view in list_runs("download") if view.name == model), None)


def folder_of(model: str) -> Path:
    """Where a model is put; a person who is offline puts its folder there by hand."""
    if model in CAPTIONERS:
        return captioners.folder_of(model)
    return paths.models() / FOLDERS.get(model, model.rpartition("/")[2])


def download(run: Run, progress: Progress) -> Path | None:
    """Work on a download; the model's folder when it is whole, None when it was asked to stop.

    Raises ZitError for a source that cannot be reached, too small a disk, a file that arrived damaged.
    """
    settings = settings_of(run)
    folder = folder_of(settings.model)
    with run.working():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with lock.held(folder / ".download.lock") as alone:
            if not alone:
                raise _two(folder)
            whole = _bring(settings, folder, progress)
        if not whole:
            run.write_status("stopped", message="Stopped; what has arrived stays.")
            return None
        if settings.model in CAPTIONERS:
            captioners.find_captioner(str(folder))
        elif not settings.without:
            check_folder(folder)
        run.write_status("done", message=f"{folder} is whole.")
    return folder


def _bring(settings: DownloadSettings, folder: Path, progress: Progress) -> bool:
    where = host(address(settings.source, settings.endpoint))
    progress.stage(f"Asking {where} for {settings.model}")
    with new_client() as client:
        try:
            repo = _REPOSITORIES.get(settings.model, settings.model)
            listed = list_files(client, settings.source, repo, settings.endpoint)
            files = _of_captioner(listed) if settings.model in CAPTIONERS else _wanted(listed, settings.without)
        except httpx.TransportError as error:
            raise ZitError(
                f"{where} cannot be reached.",
                f"Check the connection, try another source or mirror, or copy the model's folder to {folder} by hand.",
            ) from error
        if not files:
            layout = "transformers" if settings.model in CAPTIONERS else "diffusers"
            raise ZitError(f"{settings.model} on {where} holds no model in {layout}' layout.", "Check its name.")
        return _fetch_all(client, files, folder, progress)


def _fetch_all(client: httpx.Client, files: list[RemoteFile], folder: Path, progress: Progress) -> bool:
    known = _Known(folder / ".download.json")
    meter = _Meter(progress, sum(remote.size for remote in files))
    progress.stage(f"Looking at what is in {folder}")
    missing = []
    for remote in files:
        state = known.holds(remote, folder / remote.path, meter.advance)
        if state is None:
            return False
        if state:
            meter.done += remote.size
        else:
            missing.append(remote)
    parts = sum(_size(part_of(remote, folder / remote.path)) for remote in missing)
    meter.done += parts
    check_disk(sum(remote.size for remote in missing) - parts, folder)
    for remote in missing:
        progress.stage(f"Downloading {remote.path}")
        if progress.stop_requested() or not fetch(client, remote, folder / remote.path, meter.advance):
            return False
        known.add(remote)
    return True


class _Meter:
    """Tells how far it is, in MB, and passes the owner's request to stop on."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.done, self.total, self._progress = 0, total, progress
        self._looked, self._begun, self._came = 0.0, time.monotonic(), 0

    def advance(self, count: int) -> bool:
        self.done += count
        self._came += count
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        rate = self._came / 1e6 / max(now - self._begun, 1e-3)
        self._progress.step(int(self.done / 1e6), max(1, round(self.total / 1e6)), **{"MB/s": round(rate, 1)})
        return self._progress.stop_requested()


class _Known:
    """The files of a folder whose hash was found right: reading 20 GB once is enough."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._digests: dict[str, str] = dict(read_json(file)) if file.is_file() else {}

    def holds(self, remote: RemoteFile, target: Path, advance: Advance) -> bool | None:
        """Whether the file is here and right; None when asked to stop. A file that is not is moved aside."""
        if not target.is_file():
            return False
        if target.stat().st_size == remote.size:
            if self._digests.get(remote.path) == remote.digest:
                return True
            found = digest_of(target, remote.digest.partition(":")[0], advance)
            if found == "":
                return None
            if found == remote.digest:
                self.add(remote)
                return True
        with writing(target):
            target.replace(target.with_name(f"{target.name}.before"))  # it may be the user's own
        return False

    def add(self, remote: RemoteFile) -> None:
        self._digests[remote.path] = remote.digest
        write_json(self._file, self._digests)


def _wanted(files: list[RemoteFile], without: tuple[str, ...]) -> list[RemoteFile]:
    """The files of a diffusers folder, the small ones first, its index last: with it the model counts as here.

    Only `<part>/<file>` is taken, so no path that a server sends leads out of the folder.
    """
    found = []
    for remote in files:
        place = PurePosixPath(remote.path).parts
        plain = remote.path.endswith(_WANTED) and "\\" not in remote.path and not place[-1].startswith(".")
        in_part = len(place) == 2 and place[0] in (*PARTS, *SIGHT) and place[0] not in without
        if plain and (in_part or (place == (_INDEX,) and not without)):
            found.append(remote)
    return sorted(found, key=lambda remote: (remote.path == _INDEX, remote.size))


def _of_captioner(files: list[RemoteFile]) -> list[RemoteFile]:
    """The files of a transformers folder, the small ones first, its configuration last; none without weights."""
    plain = [one for one in files if one.path.endswith(_WANTED) and not one.path.startswith(".")]
    plain = [one for one in plain if not {"/", "\\"} & set(one.path)]
    if not any(one.path.endswith(".safetensors") for one in plain):
        return []
    return sorted(plain, key=lambda one: (one.path == _CONFIG, one.size))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def settings_of(run: Run) -> DownloadSettings:
    """What a download was asked for."""
    file = run.folder / "settings.toml"
    return from_mapping(DownloadSettings, parse_toml(file.read_text("utf-8"), file.name)["download"], file.name)


def _refuse_two(folder: Path) -> None:
    if lock.is_held(folder / ".download.lock"):
        raise _two(folder)


def _two(folder: Path) -> ZitError:
    return ZitError(f"Another download works on {folder.name}.", "Wait for it or stop it first.")


def _spawn(run: Run) -> None:
    with (run.folder / "process.txt").open("ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "zit_app.service.downloads", str(run.folder)],
            cwd=paths.PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **workers.detached(),
        )


def main() -> int:
    """The process of one download: `python -m zit_app.service.downloads RUN`."""
    quiet()
    run = Run.open(Path(sys.argv[1]))
    try:
        download(run, Progress(run))
    except ZitError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
