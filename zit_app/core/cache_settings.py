"""Everything that decides a cache."""

from dataclasses import dataclass
from pathlib import Path

from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml


@dataclass(frozen=True)
class CacheSettings:
    """The table `[cache]` of a caching run's `settings.toml`."""

    dataset: str = setting("", "Folder of pictures and captions")
    model: str = setting("", "Name or folder of the model")
    resolution: int = setting(
        0, "Side of a square of the same area; 0 = the model's own", unit="pixels", minimum=0, maximum=4096
    )
    further_resolutions: tuple[int, ...] = setting(
        (), "Sides at which pictures that are large enough are encoded, too", unit="pixels", minimum=16, maximum=4096
    )
    enable_bucket: bool = setting(True, "Keep aspect ratios by buckets instead of cropping to a square")
    max_sequence_length: int = setting(512, "Longest caption", unit="tokens", minimum=16, maximum=1024)
    batch_size: int = setting(0, "Pictures or captions encoded together; 0 = by their size", minimum=0, maximum=256)
    only: str = setting("all", "Part of the cache to build", choices=("all", "latents", "text"))
    trigger_word: str = setting("", "Word put before every caption, to call the adapter by")


@dataclass(frozen=True)
class _CacheFile:
    cache: CacheSettings


def cache_toml(settings: CacheSettings) -> str:
    """The frozen input of a caching run."""
    return to_toml(_CacheFile(settings))


def load_caching(path: Path) -> CacheSettings:
    """Read back what `cache_toml` wrote."""
    tables = parse_toml(path.read_text(encoding="utf-8"), path.name)
    return from_mapping(CacheSettings, tables["cache"], f"{path.name} [cache]")
