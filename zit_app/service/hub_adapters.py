"""LoRA files by their id on a model hub: `OWNER/NAME` or `OWNER/NAME/FILE.safetensors`, of ModelScope behind
`modelscope:`.

    <home>/loras/OWNER/NAME/FILE.safetensors        part of the library from then on
    <home>/loras/OWNER/NAME/FILE.safetensors.json   where it came from and its hash, as it was verified
    <home>/loras/modelscope/OWNER/NAME/…            the same of ModelScope, where the id may mean something else

What is here is never asked for again, so a drawing that worked works without a network.
"""

import re
from pathlib import Path, PurePosixPath

import httpx

from zit_app.core import lock, paths
from zit_app.core.errors import ZitError
from zit_app.core.files import write_json, writing
from zit_app.core.library import find_adapter
from zit_app.core.progress import Progress
from zit_app.service.hubs import RemoteFile, address, host, list_files, new_client
from zit_app.service.runs import check_disk
from zit_app.service.transfer import fetch

HUB, MODELSCOPE = "hub", "modelscope"
_REPO = r"(?P<owner>\w[\w.-]*)/(?P<name>\w[\w.-]*)"
_ID = re.compile(rf"(?P<source>modelscope:)?{_REPO}(?:/(?P<file>[^\\]+\.safetensors))?", re.ASCII)
_SHOWN = 12  # files of a repository that are named


def adapter_file(text: str, progress: Progress) -> Path:
    """The adapter file of a path, a name in the library or a hub id, which is downloaded when it is not here.

    Raises ZitError for what is none of these, when the hub cannot be reached, when a repository holds several files.
    """
    match = _ID.fullmatch(text)
    if match is None or Path(text).exists() or match["name"].endswith(".safetensors"):
        return find_adapter(text)
    repo, wanted, source = f"{match['owner']}/{match['name']}", match["file"], MODELSCOPE if match["source"] else HUB
    library = paths.home() / "loras"
    folder = (library if source == HUB else library / MODELSCOPE) / match["owner"] / match["name"]
    here = _here(folder, wanted)
    if here is not None:
        return here
    where = host(address(source))
    progress.stage(f"Asking {where} for {repo}")
    with new_client() as client:
        try:
            remote = _chosen(list_files(client, source, repo), repo, wanted)
        except httpx.TransportError as error:
            raise ZitError(
                f"{text} is not on this machine, and {where} cannot be reached.",
                f"Check the name or the connection, or put the file into {folder}.",
            ) from error
        return _brought(client, remote, {"source": source, "repository": repo}, folder, progress)


def _here(folder: Path, wanted: str | None) -> Path | None:
    """The file as it was downloaded, or put there by hand; without a name it must be the only one."""
    found = sorted(file for file in folder.rglob("*.safetensors") if not file.name.startswith("."))
    if wanted is None:
        return found[0] if len(found) == 1 else None
    return next((file for file in found if file.relative_to(folder).as_posix() == wanted), None)


def _chosen(files: list[RemoteFile], repo: str, wanted: str | None) -> RemoteFile:
    offered = {file.path: file for file in files if _is_plain(file.path)}
    names = ", ".join(list(offered)[:_SHOWN]) + (" …" if len(offered) > _SHOWN else "")
    if not offered:
        raise ZitError(f"{repo} holds no .safetensors file.", "Give the id of a repository with one.")
    if wanted is None and len(offered) > 1:
        such = f"{repo}/{next(iter(offered))}"
        raise ZitError(f"{repo} holds {len(offered)} files: {names}.", f"Say which, such as {such}.")
    if wanted is not None and wanted not in offered:
        raise ZitError(f"{repo} holds no {wanted}.", f"It holds: {names}.")
    return offered[wanted or next(iter(offered))]


def _is_plain(path: str) -> bool:
    """Whether a path that a server sends is a visible safetensors file below the folder."""
    parts = PurePosixPath(path).parts
    inside = not path.startswith("/") and "\\" not in path and ":" not in path
    return path.endswith(".safetensors") and inside and not any(part.startswith(".") for part in parts)


def _brought(
    client: httpx.Client, remote: RemoteFile, origin: dict[str, str], folder: Path, progress: Progress
) -> Path:
    target, came = folder / remote.path, 0

    def advance(count: int) -> bool:
        nonlocal came
        came += count
        if count:
            progress.step(came // 1000, max(1, remote.size // 1000))
        return False

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder / ".download.lock") as alone:
        if not alone:
            raise ZitError(f"Another download works on {folder.name}.", "Wait for it or stop it first.")
        check_disk(remote.size, folder)
        progress.stage(f"Downloading {origin['repository']}/{remote.path} ({remote.size / 1e6:,.1f} MB)")
        fetch(client, remote, target, advance)
        record = {"file": remote.path, "url": remote.url, "hash": remote.digest}
        write_json(target.with_name(f"{target.name}.json"), origin | record)
    return target
