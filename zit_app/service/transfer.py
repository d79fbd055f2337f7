"""Fetch one file: go on where it broke off, and keep it only when its hash is right.

What has arrived lies in ``<name>.<8 digits of its hash>.part`` beside its place, so that a part is never continued with
another version of the file.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from zit_app.core.errors import ZitError
from zit_app.core.files import writing
from zit_app.service.hubs import RemoteFile, check_answer, host

_BLOCK = 8 << 20  # bytes read at once to hash a file
TRIES = 5  # in a row without a single new byte
WAIT_SECONDS = 1.0  # before the second try; doubled for each one after it
_LATER = (408, 416, 429, 500, 502, 503, 504)  # answers after which another try may succeed

Advance = Callable[[int], bool]  # told how many bytes came (less than 0: were dropped); true = stop


def part_of(remote: RemoteFile, target: Path) -> Path:
    """Where the file lies until it is whole."""
    return target.with_name(f"{target.name}.{remote.digest[-8:]}.part")


def fetch(client: httpx.Client, remote: RemoteFile, target: Path, advance: Advance) -> bool:
    """Bring one file to its place, whole and verified; false when `advance` asked to stop (what came stays).

    Raises ZitError when the connection breaks again and again, the hash is wrong or the disk is full.
    """
    part = part_of(remote, target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    tries = 0
    while (have := part.stat().st_size) < remote.size:
        try:
            if not _append(client, remote, part, have, advance):
                return False
        except httpx.TransportError as error:
            tries = 0 if part.stat().st_size > have else tries + 1
            if tries >= TRIES:
                raise broken_off(remote, part.stat().st_size) from error
            if not _wait(WAIT_SECONDS * 2 ** max(0, tries - 1), advance):
                return False
    found = digest_of(part, remote.digest.partition(":")[0], advance)
    if found == "":
        return False
    if found != remote.digest:
        part.unlink()
        raise ZitError(
            f"{target.name} did not arrive as {host(remote.url)} describes it: its hash differs.",
            "Start the download again; only this file is fetched anew.",
        )
    with writing(target):
        part.replace(target)
    return True


def digest_of(path: Path, kind: str, advance: Advance) -> str:
    """The hash of a file as a hub writes it, `sha256:…` or `git:…`; empty when asked to stop on the way."""
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_BLOCK):
            digest.update(chunk)
            if advance(0):
                return ""
    return f"{kind}:{digest.hexdigest()}"


def broken_off(remote: RemoteFile, have: int) -> ZitError:
    """The error for a connection that does not come back."""
    return ZitError(
        f"The connection to {host(remote.url)} broke off in {remote.path}, {have / 1e6:,.0f} of "
        f"{remote.size / 1e6:,.0f} MB of it are here.",
        "Start the download again; it goes on where it stopped.",
    )


def _append(client: httpx.Client, remote: RemoteFile, part: Path, have: int, advance: Advance) -> bool:
    """Stream the rest of a file into its part. Raises httpx.TransportError when the connection or the server fails."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.stream("GET", remote.url, headers=headers) as response, writing(part), part.open("ab") as file:
        if have and response.status_code in (200, 416):  # no ranges here, or the server disagrees: from the start
            file.truncate(0)
            if advance(-have):
                return False
        if response.status_code in _LATER:
            raise httpx.ReadError(f"status {response.status_code}")
        check_answer(response, remote.path)
        for chunk in response.iter_raw():  # as it comes: a chunk that is being filled is lost with the connection
            if file.tell() + len(chunk) > remote.size:
                file.truncate(0)  # another file than the list described; its hash would differ
                raise ZitError(
                    f"{remote.path} is longer than {host(remote.url)} describes it.", "Start the download again later."
                )
            file.write(chunk)
            if advance(len(chunk)):
                return False
    if part.stat().st_size < remote.size:
        raise httpx.ReadError("the answer ended early")
    return True


def _wait(seconds: float, advance: Advance) -> bool:
    """Wait before another try; false when asked to stop meanwhile."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if advance(0):
            return False
        time.sleep(min(0.2, seconds))
    return True
