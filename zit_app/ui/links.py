"""Addresses of files on the page."""

from pathlib import Path
from urllib.parse import quote


def url(path: Path) -> str:
    """Where the page gets a file under the static folders; relative, so that it holds for every language."""
    return "gradio_api/file=" + quote(path.as_posix(), safe="/:")
