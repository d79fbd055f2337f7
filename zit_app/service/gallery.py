"""All pictures that were ever drawn, read from the disk; a picture knows how it was made."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zit_app.core import paths
from zit_app.core.attention import installed
from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of_known
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.library import adapter_name, shelves
from zit_app.core.models import list_models
from zit_app.data.parameters import Parameters, read_parameters
from zit_app.data.recipe import read_recipe
from zit_app.data.wildcards import literal
from zit_app.service.hardware import report


@dataclass(frozen=True)
class Picture:
    """One drawn picture."""

    path: Path
    prompt: str
    template: str
    seed: int
    width: int
    height: int
    model: str
    time: float


def pictures(search: str = "", limit: int = 200) -> list[Picture]:
    """The pictures of all generate runs, the newest run first; `search` words must all occur in the prompt."""
    words = search.casefold().split()
    found: list[Picture] = []
    for folder in sorted(paths.runs("generate").glob("*/"), reverse=True):
        for path in sorted(folder.glob("*.png")):
            if path.name.startswith("."):
                continue
            picture = _picture(path, path.stat().st_mtime_ns)
            if picture is not None and all(word in picture.prompt.casefold() for word in words):
                found.append(picture)
        if len(found) >= limit:
            break
    return found[:limit]


def picture(path: Path) -> Picture:
    """One picture. Raises ZitError when it is gone or holds no recipe."""
    found = _picture(path, path.stat().st_mtime_ns) if path.is_file() else None
    if found is None:
        raise ZitError(f"{path.name} holds no recipe of this program.", "Choose another picture.")
    return found


@dataclass(frozen=True)
class Restored:
    """The settings that draw a picture again. `model` is "" and `missing` names what is not on this machine."""

    settings: GenerateSettings
    model: str
    missing: tuple[str, ...]


def restore(png: Path) -> Restored:
    """What made a picture: of ours to the bit, of other programs what their text says. Adapters of our pictures are
    found by their content, those of others by their name.

    Raises ZitError when the file holds nothing of the kind.
    """
    try:
        recipe = read_recipe(png)
    except ZitError:
        return _restore_foreign(read_parameters(png))
    found = [(lora, _file_of(lora.sha256)) for lora in recipe.loras]
    image = _kept(recipe.image_sha256) if recipe.image else None
    mask = _kept(recipe.mask_sha256) if recipe.mask else None
    references = [(one.name, _kept(one.sha256)) for one in recipe.references]
    settings = GenerateSettings(
        prompts=(literal(recipe.prompt),),
        negative_prompt=recipe.negative_prompt,
        steps=recipe.steps,
        guidance=recipe.guidance,
        sigmas=recipe.sigmas,
        seed=recipe.seed,
        width=recipe.width,
        height=recipe.height,
        solver=recipe.solver,
        image=str(image or ""),
        strength=recipe.strength,
        mask=str(mask or "") if image else "",
        mask_blur=recipe.mask_blur,
        references=tuple(str(file) for _, file in references if file),
        larger=recipe.larger,
        larger_strength=recipe.larger_strength,
        larger_steps=recipe.larger_steps,
        attention=recipe.attention if recipe.attention in installed(bool(report().cards)) else "auto",
        precision=recipe.precision,
        text_precision=recipe.text_precision,
        max_sequence_length=recipe.max_sequence_length,
        loras=tuple(LoraUse(str(file), one.weight, one.first, one.last) for one, file in found if file),
    )
    model = _model_of(recipe.model)
    lost = [one.name for one, file in found if file is None]
    lost += [name for name, file in ((recipe.image, image), (recipe.mask, mask), *references) if name and file is None]
    return Restored(settings, model, tuple(lost if model else [recipe.model, *lost]))


def _restore_foreign(given: Parameters) -> Restored:
    known = {adapter_name(file): file for file in shelves()}
    settings = GenerateSettings(
        prompts=(literal(given.prompt),),
        negative_prompt=given.negative_prompt,
        steps=given.steps,
        guidance=given.guidance,
        seed=given.seed,
        width=given.width // 16 * 16,
        height=given.height // 16 * 16,
        loras=tuple(LoraUse(str(known[name]), weight) for name, weight in given.loras if name in known),
    )
    model = _model_of(given.model)
    lost = [name for name, _ in given.loras if name not in known]
    return Restored(settings, model, tuple(lost if model or not given.model else [given.model, *lost]))


def _model_of(folder: str) -> str:
    """The name of the model here whose folder, or name, a picture tells; "" when it is not here."""
    return next((info.name for info in list_models() if info.ready and folder in (info.name, info.path.name)), "")


def _kept(sha256: str) -> Path | None:
    """The copy of a picture that another one was drawn from."""
    return next(paths.inputs().glob(f"{sha256[:32]}.*"), None)


def _file_of(sha256: str) -> Path | None:
    return next((file for file in shelves() if sha256_of_known(file, file.stat().st_mtime_ns) == sha256), None)


@lru_cache(maxsize=8192)
def _picture(path: Path, stamp: int) -> Picture | None:
    """What a picture says of itself; read once for each version of the file. None when it says nothing."""
    try:
        recipe = read_recipe(path)
    except ZitError:
        return None
    return Picture(path, recipe.prompt, recipe.template, recipe.seed, *recipe.drawn_size, recipe.model, stamp / 1e9)
