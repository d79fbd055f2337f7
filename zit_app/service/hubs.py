"""What model hubs offer: the files of a repository with their sizes and hashes.

Hugging Face: ``GET /api/models/<repo>/tree/main`` (large files carry a SHA-256, small ones git's SHA-1 of the blob).
ModelScope: ``GET /api/v1/models/<repo>/repo/files`` (a SHA-256 each). ``huggingface_hub`` speaks only the first, and
compares sizes but no hashes after a download, so both are read here and fetched by `transfer.py`.
"""

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from zit_app.core.errors import ZitError

SOURCES = ("hub", "modelscope")
_OWN = {"hub": "HF_ENDPOINT", "modelscope": "MODELSCOPE_DOMAIN"}
_ADDRESSES = {"hub": "https://huggingface.co", "modelscope": "https://modelscope.cn"}


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository. ``digest``: `sha256:…`, or `git:…`, git's SHA-1 over `blob <size>\\0` and content."""

    path: str
    url: str
    size: int
    digest: str


def address(source: str, endpoint: str = "") -> str:
    """Where a source is asked: `endpoint`, else what its own tools are told by `HF_ENDPOINT` or `MODELSCOPE_DOMAIN`,
    else its home.
    """
    own = os.environ.get(_OWN[source], "")
    own = f"https://{own}" if own and "://" not in own else own
    return (endpoint or own or _ADDRESSES[source]).rstrip("/")


def host(url: str) -> str:
    """The name of the machine in an address, for people."""
    return urlsplit(url).hostname or url


def new_client() -> httpx.Client:
    """A client that takes files as they are: a compressed answer has other sizes and cannot be resumed."""
    return httpx.Client(
        follow_redirects=True, headers={"Accept-Encoding": "identity"}, timeout=httpx.Timeout(30.0, connect=15.0)
    )


def list_files(client: httpx.Client, source: str, repo: str, endpoint: str = "") -> list[RemoteFile]:
    """All files of a repository. Raises ZitError when it is not there or the answer is none; httpx.TransportError."""
    base = address(source, endpoint)
    try:
        return _hub_files(client, base, repo) if source == "hub" else _modelscope_files(client, base, repo)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ZitError(
            f"{host(base)} does not answer as a model hub does.", "Check --endpoint, or choose the other --source."
        ) from error


def check_answer(response: httpx.Response, what: str) -> None:
    """Raises ZitError for an answer that trying again would not change."""
    where = host(str(response.url))
    if response.status_code in (401, 403):
        raise ZitError(f"{where} does not give {what} to everybody.", "Download it by hand, logged in on its page.")
    if response.status_code == 404:
        raise ZitError(f"{where} does not have {what}.", "Check the name, or choose the other --source.")
    if response.status_code >= 400:
        raise ZitError(
            f"{where} answers {response.status_code} when asked for {what}.", "Try again later or use another --source."
        )


def _hub_files(client: httpx.Client, base: str, repo: str) -> list[RemoteFile]:
    url = f"{base}/api/models/{repo}/tree/main?recursive=true"
    files = []
    while url:
        response = client.get(url)
        check_answer(response, repo)
        files += [_hub_file(base, repo, entry) for entry in response.json() if entry["type"] == "file"]
        url = response.links.get("next", {}).get("url", "")
    return files


def _hub_file(base: str, repo: str, entry: dict[str, Any]) -> RemoteFile:
    digest = f"sha256:{entry['lfs']['oid']}" if entry.get("lfs") else f"git:{entry['oid']}"
    path = str(entry["path"])
    return RemoteFile(path, f"{base}/{repo}/resolve/main/{quote(path)}", int(entry["size"]), digest)


def _modelscope_files(client: httpx.Client, base: str, repo: str) -> list[RemoteFile]:
    root = f"{base}/api/v1/models/{repo}/repo"
    response = client.get(f"{root}/files?Revision=master&Recursive=True")
    check_answer(response, repo)
    return [
        RemoteFile(
            path=str(entry["Path"]),
            url=f"{root}?Revision=master&FilePath={quote(str(entry['Path']), safe='')}",
            size=int(entry["Size"]),
            digest=f"sha256:{entry['Sha256']}",
        )
        for entry in response.json()["Data"]["Files"]
        if entry["Type"] == "blob"
    ]
