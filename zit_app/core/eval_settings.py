"""Everything that decides an evaluation: a comparison, and what its pictures are measured with."""

from dataclasses import dataclass
from pathlib import Path

from zit_app.core.compare_settings import CompareSettings, check
from zit_app.core.errors import ZitError
from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml


@dataclass(frozen=True)
class EvalSettings:
    """The table `[eval]` of an evaluation's `settings.toml`; `[compare]` holds prompts, seeds and variants."""

    clip: str = setting("", "Folder of a CLIP or SigLIP: how well pictures show what their prompts say")
    references: str = setting("", "Folder of real pictures: how far the drawn ones are from them; needs a CLIP")
    resamples: int = setting(1000, "Resamples of the bootstrap behind the intervals", minimum=100, maximum=100000)


@dataclass(frozen=True)
class _EvalFile:
    compare: CompareSettings
    eval: EvalSettings


def eval_toml(drawn: CompareSettings, measured: EvalSettings) -> str:
    """The frozen input of an evaluation. Raises ZitError when it cannot work."""
    check(drawn)
    if len(drawn.prompts) < 2:
        raise ZitError("One prompt tells nothing about others.", "Give at least two prompts.")
    if measured.references and not measured.clip:
        raise ZitError(
            "The distance to real pictures needs the eyes of a CLIP.", "Give its folder with --clip, or no references."
        )
    return to_toml(_EvalFile(drawn, measured))


def load_evaluation(path: Path) -> tuple[CompareSettings, EvalSettings]:
    """Read back what `eval_toml` wrote. Raises ZitError for another kind of run."""
    tables = parse_toml(path.read_text(encoding="utf-8"), path.name)
    if "compare" not in tables or "eval" not in tables:
        raise ZitError(f"{path.parent} is no evaluation.", "Give the folder of one.")
    drawn = from_mapping(CompareSettings, tables["compare"], f"{path.name} [compare]")
    return drawn, from_mapping(EvalSettings, tables["eval"], f"{path.name} [eval]")
