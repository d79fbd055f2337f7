"""The recipe of a picture, inside its PNG: enough to draw it again, readable by other programs.

Two text chunks: ``parameters`` in the form that A1111's web interface introduced, and ``zit``, everything as JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from zit_app.core.errors import ZitError
from zit_app.core.files import replacing
from zit_app.core.generate_settings import enlarged

_SAMPLERS = {"euler": "Euler", "heun": "Heun", "dpm++2m": "DPM++ 2M"}  # as A1111 calls them


@dataclass(frozen=True)
class LoraRecipe:
    """One adapter of the stack: file name, SHA-256 of the file, strength and steps (from 1; last 0 = to the end)."""

    name: str
    sha256: str
    weight: float
    first: int
    last: int


@dataclass(frozen=True)
class ReferenceRecipe:
    """A picture that the prompt speaks of: file name, SHA-256 of the file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """Everything that decides one picture. ``model_hash`` identifies the transformer by its content.

    ``sigmas`` are those before ``strength`` took its share of them. What has a default is missing in older pictures.
    """

    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    sigmas: tuple[float, ...]
    width: int
    height: int
    precision: str
    max_sequence_length: int
    model: str
    model_hash: str
    loras: tuple[LoraRecipe, ...]
    solver: str = "euler"
    text_precision: str = "auto"
    image: str = ""  # name of the picture it started from
    image_sha256: str = ""
    strength: float = 0.75  # counts only with a picture
    template: str = ""  # the prompt as it was written, where choices of the seed made `prompt` of it
    mask: str = ""  # name of its mask
    mask_sha256: str = ""
    mask_blur: int = 8  # counts only with a mask
    larger: float = 1.0  # the second pass drew it so many times larger than width and height
    larger_strength: float = 0.3  # counts only with a second pass
    larger_steps: int = 0  # before the strength took its share
    attention: str = "native"
    references: tuple[ReferenceRecipe, ...] = ()  # in the order of the prompt

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height of the picture itself."""
        return enlarged((self.width, self.height), self.larger)

    def parameters(self) -> str:
        """The recipe as A1111 writes it."""
        lines = [self.prompt]
        if self.negative_prompt:
            lines.append(f"Negative prompt: {self.negative_prompt}")
        facts = [
            f"Steps: {self.steps}",
            f"Sampler: {_SAMPLERS[self.solver]}",
            f"CFG scale: {self.guidance:g}",
            f"Seed: {self.seed}",
            f"Size: {self.width}x{self.height}",
            f"Model hash: {self.model_hash[:10]}",
            f"Model: {self.model}",
        ]
        if self.image:
            facts.append(f"Denoising strength: {self.strength:g}")
        elif self.larger > 1:
            facts.append(f"Denoising strength: {self.larger_strength:g}")
        if self.mask:
            facts.append(f"Mask blur: {self.mask_blur}")
        if self.references:
            names = ", ".join(one.name for one in self.references)
            facts.append(f"References: {json.dumps(names, ensure_ascii=False)}")
        if self.larger > 1:
            facts.append(f"Hires upscale: {self.larger:g}, Hires steps: {self.larger_steps}, Hires upscaler: Lanczos")
        if self.template:
            facts.append(f"Template: {json.dumps(self.template, ensure_ascii=False)}")
        if self.loras:
            hashes = ", ".join(f"{Path(lora.name).stem}: {lora.sha256[:12]}" for lora in self.loras)
            facts.append(f'Lora hashes: "{hashes}"')
        return "\n".join([*lines, ", ".join([*facts, f"Version: ZIT Studio {app_version()}"])])


def app_version() -> str:
    """The version of this application; "source" in a checkout that was never installed."""
    try:
        return version("zit-studio")
    except PackageNotFoundError:
        return "source"


def save_png(path: Path, picture: Image.Image, recipe: Recipe) -> None:
    """Write a PNG with its recipe, whole or not at all."""
    info = PngInfo()
    info.add_text("parameters", recipe.parameters())
    info.add_text("zit", json.dumps({"version": app_version(), **asdict(recipe)}, ensure_ascii=False))
    with replacing(path, durable=False) as temporary:
        picture.save(temporary, pnginfo=info)


def read_recipe(path: Path) -> Recipe:
    """The recipe inside a PNG; raises ZitError when the file holds none."""
    try:
        with Image.open(path) as picture:
            given = json.loads(picture.info["zit"])
        given.pop("version")
        loras = tuple(LoraRecipe(**lora) for lora in given.pop("loras"))
        references = tuple(ReferenceRecipe(**one) for one in given.pop("references", ()))
        return Recipe(**{**given, "sigmas": tuple(given["sigmas"]), "loras": loras, "references": references})
    except FileNotFoundError as error:
        raise ZitError(f"{path} does not exist.", "Check the path.") from error
    except (OSError, SyntaxError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ZitError(f"{path.name} holds no recipe of this program.", "Give a PNG as it was saved here.") from error


def picture_paths(out: Path, seeds: Sequence[int]) -> list[Path]:
    """Where the pictures go: ``out`` itself when it names a PNG file, else ``0000_<seed>.png`` … inside it."""
    if out.suffix.lower() == ".png":
        return [out]
    return [out / f"{i:04d}_{seed}.png" for i, seed in enumerate(seeds)]
