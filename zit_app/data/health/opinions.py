"""What a CLIP or SigLIP of the user's thinks of pictures and captions; `engine/opinions.py` writes it."""

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from zit_app.core.files import replacing
from zit_app.data.index import CACHE_FOLDER

OUTDONE = 0.5  # share of the others' captions that fit a picture better than its own
PLAIN = 4.5  # on the scale of 1 to 10 of LAION's aesthetic predictors, whose pictures are above 5 when people like them


@dataclass(frozen=True)
class Opinion:
    """Of one picture with one caption."""

    sha256: str
    caption: str  # "" for a picture without one, which has no agreement
    agreement: float | None  # cosine of picture and caption
    outdone: float | None  # share of the set's other captions that agree better; None where there are too few
    aesthetic: float | None  # None without a head for it

    def flags(self, captions: tuple[str, ...]) -> list[str]:
        """The flags that follow for a picture that has these captions now."""
        differs = self.caption in captions and self.outdone is not None and self.outdone >= OUTDONE
        return ["other_caption"] * differs + ["plain_looks"] * (self.aesthetic is not None and self.aesthetic < PLAIN)


def opinions_path(dataset: Path) -> Path:
    """Where the opinions of a dataset lie."""
    return dataset / CACHE_FOLDER / "opinions.jsonl"


def load_opinions(dataset: Path) -> dict[str, Opinion]:
    """The opinions by SHA-256; empty without any, or when the file is damaged."""
    path = opinions_path(dataset)
    if not path.is_file():
        return {}
    try:
        rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return {row[0]: Opinion(*row) for row in rows}
    except (ValueError, TypeError):
        return {}


def save_opinions(dataset: Path, opinions: Mapping[str, Opinion]) -> None:
    """Replace the opinions of a dataset."""
    with replacing(opinions_path(dataset)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(astuple(each), ensure_ascii=False) + "\n" for each in opinions.values())
