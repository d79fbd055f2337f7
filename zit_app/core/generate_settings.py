"""Everything that decides a set of pictures."""

import re
from dataclasses import dataclass
from pathlib import Path

from zit_app.core.attention import BACK_ENDS
from zit_app.core.errors import ZitError
from zit_app.core.settings import from_mapping, parse_toml, setting, to_toml

PRECISIONS = (
    "auto", "fp32", "bf16", "int8", "fp8", "nf4", "int8-fast", "fp8-fast", "int8-quanto", "fp8-quanto",
)  # fmt: skip
SOLVERS = ("euler", "heun", "dpm++2m")
TOKENS_A_BATCH, PICTURES_A_BATCH = 4096, 16  # one picture of 1024² is 4096 tokens; small ones are drawn together
ATTENTION = ("auto", *BACK_ENDS)

_LORA = re.compile(r"(?P<file>.+?)(?:@(?P<weight>[-+]?\d*\.?\d+)(?:@(?P<first>\d+)-(?P<last>\d+))?)?")


@dataclass(frozen=True)
class LoraUse:
    """One adapter in a stack: its weight and the denoising steps (counted from 1, both ends included) it acts in."""

    file: str = setting("", "Adapter file")
    weight: float = setting(1.0, "Strength of the adapter", minimum=-10.0, maximum=10.0)
    first: int = setting(1, "First denoising step it acts in", minimum=1)
    last: int = setting(0, "Last denoising step it acts in; 0 = to the end", minimum=0)


@dataclass(frozen=True)
class GenerateSettings:
    """Pictures come in the order of the prompts, `count` of each, with the seeds `seed`, `seed + 1`, …"""

    prompts: tuple[str, ...] = setting((), "What the pictures show")
    negative_prompt: str = setting("", "What they must not show; counts only with guidance above 0")
    steps: int = setting(0, "Denoising steps; 0 = the model's own", minimum=0, maximum=200)
    guidance: float = setting(
        -1.0, "Classifier-free guidance; 0 = off (one pass a step); -1 = the model's own", minimum=-1.0, maximum=30.0
    )
    sigmas: tuple[float, ...] = setting(
        (), "Noise levels to visit instead of the schedule, from 1 down, without the last 0"
    )
    seed: int = setting(0, "Seed of the first picture of a prompt", minimum=0, maximum=2**63 - 1)
    count: int = setting(1, "Pictures a prompt", minimum=1, maximum=10000)
    width: int = setting(0, "Width, a multiple of 16; 0 = the model's own", unit="pixels", minimum=0, maximum=8192)
    height: int = setting(0, "Height, a multiple of 16; 0 = the model's own", unit="pixels", minimum=0, maximum=8192)
    solver: str = setting("euler", "How steps are taken; heun asks the model twice a step", choices=SOLVERS)
    image: str = setting("", "Picture to start from; empty = from noise alone")
    strength: float = setting(0.75, "With a picture: the share of the steps that redraw it", minimum=0.05, maximum=1.0)
    mask: str = setting("", "With a picture: another one of its shape, white where it is redrawn; empty = everywhere")
    mask_blur: int = setting(8, "Soft edge of the mask, inwards", unit="pixels", minimum=0, maximum=256)
    references: tuple[str, ...] = setting((), "Pictures that the prompt speaks of, for models that look at pictures")
    larger: float = setting(1.0, "Draw the picture again so many times larger; 1 = no", minimum=1.0, maximum=4.0)
    larger_strength: float = setting(
        0.3, "When drawn larger: the share of the steps that redraw it", minimum=0.05, maximum=1.0
    )
    larger_steps: int = setting(
        0, "When drawn larger: denoising steps; 0 = as from a picture, of which its strength takes a share",
        minimum=0, maximum=200,
    )  # fmt: skip
    attention: str = setting("auto", "How attention is computed; auto = the fastest exact way", choices=ATTENTION)
    precision: str = setting(
        "auto",
        "Number format; auto = bf16 on a card, fp32 without; int8 and fp8 halve the model's memory, nf4 quarters it; "
        "-fast multiplies in 8 bit, too",
        choices=PRECISIONS,
    )
    text_precision: str = setting(
        "auto", "Number format of the text encoder; auto = that which is computed in", choices=PRECISIONS
    )
    max_sequence_length: int = setting(512, "Longest prompt", unit="tokens", minimum=16, maximum=1024)
    loras: tuple[LoraUse, ...] = setting((), "Adapters")


@dataclass(frozen=True)
class GenerateJob:
    """What a run of generation is about; the table `[job]` of its `settings.toml`."""

    model: str = setting("", "Name or folder of the model")
    out: str = setting("", "File or folder of the pictures; empty = the run's own folder")


def generate_toml(settings: GenerateSettings, job: GenerateJob) -> str:
    """The frozen input of a run of generation: the tables `[job]` and `[generate]`."""
    return to_toml(_GenerateFile(job, settings))


def load_generation(path: Path) -> tuple[GenerateSettings, GenerateJob]:
    """Read back what `generate_toml` wrote."""
    tables = parse_toml(path.read_text(encoding="utf-8"), path.name)
    settings = from_mapping(GenerateSettings, tables["generate"], f"{path.name} [generate]")
    return settings, from_mapping(GenerateJob, tables["job"], f"{path.name} [job]")


@dataclass(frozen=True)
class _GenerateFile:
    job: GenerateJob
    generate: GenerateSettings


def parse_lora(text: str) -> LoraUse:
    """`FILE[@WEIGHT[@FIRST-LAST]]`, such as `style.safetensors@0.8@1-2`."""
    match = _LORA.fullmatch(text)
    if match is None:
        raise ZitError(f"{text!r} is not understood.", "Write FILE, FILE@WEIGHT or FILE@WEIGHT@FIRST-LAST.")
    first, last = int(match["first"] or 1), int(match["last"] or 0)
    if first < 1 or (match["last"] and last < first):
        raise ZitError(f"{text!r}: steps {first}-{last} are no range.", "Steps count from 1; write FIRST-LAST.")
    given = {"file": match["file"], "weight": float(match["weight"] or 1.0), "first": first, "last": last}
    return from_mapping(LoraUse, given, text)


def parse_size(text: str) -> tuple[int, int]:
    """`WxH` in pixels; both are multiples of 16, as the VAE (8×) and the patches (2×) ask."""
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if match is None:
        raise ZitError(f"{text!r} is not understood.", "Write WIDTHxHEIGHT, such as 1024x768.")
    width, height = int(match[1]), int(match[2])
    if width % 16 or height % 16 or not width or not height:
        raise ZitError(
            f"{text}: sides must be multiples of 16.",
            f"Try {max(16, round(width / 16) * 16)}x{max(16, round(height / 16) * 16)}.",
        )
    return width, height


def enlarged(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Width and height so many times larger, as multiples of 16."""
    return round(size[0] * factor / 16) * 16, round(size[1] * factor / 16) * 16


def together(size: tuple[int, int]) -> int:
    """How many pictures of a size are drawn at once, at the most."""
    return max(1, min(PICTURES_A_BATCH, TOKENS_A_BATCH // (size[0] * size[1] // 256)))
