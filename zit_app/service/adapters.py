"""The library of LoRA files: those that were trained here and those put into `<home>/loras/`. Reads headers only."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zit_app.core.errors import ZitError
from zit_app.core.headers import read_header
from zit_app.core.library import adapter_name, base_of, shelves, trigger_of

_DOWN = (".lora_A.weight", ".lora_down.weight", ".lora.down.weight", ".lora_A.default.weight")

_KINDS = ((".dora_scale", "DoRA"), (".lora_magnitude_vector", "DoRA"), (".lokr_", "LoKr"), (".hada_", "LoHa"))


@dataclass(frozen=True)
class AdapterFile:
    """One LoRA file."""

    name: str
    path: Path
    trigger: str  # word that calls it, "" when none is noted
    rank: int | None
    base: str  # model it was trained on, as the file says
    date: float
    size: int  # bytes
    kind: str  # LoRA, LoKr, LoHa, DoRA


def library() -> list[AdapterFile]:
    """All usable LoRA files, the newest first. Files that are no whole safetensors are left out."""
    found = [_adapter(file, file.stat().st_mtime_ns) for file in shelves()]
    return sorted((one for one in found if one is not None), key=lambda one: one.date, reverse=True)


@lru_cache(maxsize=512)
def _adapter(file: Path, stamp: int) -> AdapterFile | None:
    try:
        header = read_header(file)
    except ZitError:
        return None
    metadata = header.pop("__metadata__", {})
    return AdapterFile(
        name=adapter_name(file),
        path=file,
        trigger=trigger_of(metadata),
        rank=_rank(header, metadata),
        base=base_of(metadata)[0],
        date=stamp / 1e9,
        size=file.stat().st_size,
        kind=next((kind for sign, kind in _KINDS if any(sign in key for key in header)), "LoRA"),
    )


def _rank(header: dict[str, Any], metadata: dict[str, str]) -> int | None:
    noted = metadata.get("ss_network_dim", "")
    if noted.isdigit():
        return int(noted)
    downs = [entry["shape"][0] for key, entry in header.items() if key.endswith(_DOWN) and entry["shape"]]
    return max(downs, default=None)
