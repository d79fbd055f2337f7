"""What drawing and training need of a card, and how a model is laid out so that it fits. Counted, no torch needed.

Weights are exact (`core/sizes.py`). Activations are those of the widest moment of a phase, in live tensors:

    read     the states of all layers (the feature is one of them) and three widths of a feed forward; of SigLIP four
             widths of the model and two of a feed forward
    draw     per token: four widths of a feed forward and five of the model (nine of an Omni), or where weights are
             unpacked for their use, two of a feed forward beside the unpacked weight, or where rounded inputs are
             multiplied, five of a feed forward; rotary factors
    decode   three pictures of the channels that the last stage reads; in tiles the same of one tile
    train    per token and main block what its backward pass needs; with checkpointing its input, and one block in full

`tests/test_memory.py` holds them to the peaks of real passes (within 10 %) and of traced ones of the full model. What
a card's libraries take on top (convolution workspaces, the allocator's slack) lives in the 15 % that are never planned
with. D model width, F feed forward's, T tokens, L layers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from zit_app.core.files import read_json
from zit_app.core.sizes import Config, Weights, sight_numbers, text_encoder_weights, transformer_weights, vae_numbers

SHARE = 0.85  # of the free memory: a card that is filled slows down tenfold on Windows before it fails
SMALL = 1 << 30  # bytes; without a card, a text encoder below it stays in memory
TILES = (512, 256)  # pixels
_PARTS = ("transformer", "text_encoder", "vae")
_SIGHT = 256  # patches into which SigLIP 2 divides a picture, at the most
_TILE_STRIDE = 0.75  # diffusers' tiles overlap by a quarter
PLACES = 2  # blocks that come and go take turns in two places: one computes, the next arrives
# Widths of D a token that training keeps, by bytes of a number: of a block, at the most within one, at the end.
_KEPT = {2: (39, 47, 9), 4: (23, 27, 5)}


@dataclass(frozen=True)
class Model:
    """Configurations of the parts, as diffusers and transformers write them."""

    transformer: Config
    text_encoder: Config
    vae: Config
    siglip: Config | None = None  # of an Omni


@dataclass(frozen=True)
class Numbers:
    """How numbers are kept: bytes of one in full, and the format of packed layers ("" = in full)."""

    full: int
    stored: str
    text_full: int
    text_stored: str


@dataclass(frozen=True)
class Request:
    """Pictures that are drawn together; ``adapters`` in bytes on the card, ``references`` with width and height."""

    width: int
    height: int
    pictures: int = 1
    guided: bool = False
    caption_tokens: int = 512
    adapters: int = 0
    references: tuple[tuple[int, int], ...] = ()

    @property
    def largest(self) -> tuple[int, int]:
        """The largest picture that the VAE sees: what is drawn, or a reference."""
        return max([(self.width, self.height), *self.references], key=math.prod)

    @property
    def tokens(self) -> int:
        """Of all pictures with their captions, each run padded to 32, twice with guidance."""
        image = _padded(self.width * self.height // 256) + _padded(self.caption_tokens)
        if self.references:  # their latents, what SigLIP sees, the ends of the caption around them, an empty sight
            seen = sum(_padded(width * height // 256) + _SIGHT for width, height in self.references)
            image += seen + (len(self.references) + 2) * 32
        return image * self.pictures * (2 if self.guided else 1)


@dataclass(frozen=True)
class Phase:
    """Bytes on the card in one phase."""

    name: str
    weights: int
    activations: int

    @property
    def total(self) -> int:
        """Weights and activations."""
        return self.weights + self.activations


@dataclass(frozen=True)
class Layout:
    """Where the parts of a model are while pictures are drawn.

    encoder_stays      the text encoder stays on the card beside the rest; else it is there only to read new prompts
    encoder_beside     while it reads, the transformer may stay
    encoder_away       of its layers that come to the card only for their turn
    transformer_away   the same of the transformer's main blocks
    one_by_one         the VAE decodes one picture after the other
    tile               side of the VAE's tiles in pixels, 0 = whole pictures
    """

    encoder_stays: bool
    encoder_beside: bool
    encoder_away: int
    transformer_away: int
    one_by_one: bool
    tile: int
    phases: tuple[Phase, ...]
    budget: int | None  # bytes that may be used; None = no card

    @property
    def fits(self) -> bool:
        """Whether every phase stays within what may be used."""
        return self.budget is None or all(phase.total <= self.budget for phase in self.phases)


def read_model(folder: Path) -> Model:
    """The configurations of a model's folder."""
    sight = folder / "siglip" / "config.json"
    transformer, encoder, vae = (read_json(folder / part / "config.json") for part in _PARTS)
    return Model(transformer, encoder, vae, read_json(sight) if sight.is_file() else None)


def budget_of(free: int) -> int:
    """What may be planned with of a card's free memory."""
    return int(free * SHARE)


def plan_layout(model: Model, numbers: Numbers, request: Request, budget: int | None) -> Layout:
    """The fastest layout that fits; the leanest one, which says so, when none does.

    In this order: whole pictures decoded together, one by one, in tiles; then blocks of the transformer leave. So the
    pictures are those of a larger card to the bit, except in tiles, whose seams are blended.
    """
    encoder = text_encoder_weights(model.text_encoder).size(numbers.text_stored, numbers.text_full)
    if budget is None:
        return _layout(model, numbers, request, None, encoder < SMALL, 0, (0, False, 0))
    whole = _layout(model, numbers, request, budget, True, 0, (0, False, 0))
    if whole.fits:
        return whole
    encoder_away = 0
    for encoder_away in _away(int(model.text_encoder["num_hidden_layers"])):
        if _reading(model, numbers, request, encoder_away).total <= budget:
            break
    found = whole
    ways = ((False, 0), *((True, 0) for _ in range(request.pictures > 1)), *((True, tile) for tile in _tiles(request)))
    for away, (one_by_one, tile) in product(_away(int(model.transformer["n_layers"])), ways):
        found = _layout(model, numbers, request, budget, False, encoder_away, (away, one_by_one, tile))
        if all(phase.total <= budget for phase in found.phases[1:]):
            break
    return found


def _layout(
    model: Model,
    numbers: Numbers,
    request: Request,
    budget: int | None,
    stays: bool,
    encoder_away: int,
    drawing: tuple[int, bool, int],
) -> Layout:
    away, one_by_one, tile = drawing
    resident = _resident(transformer_weights(model.transformer), away, numbers.stored, numbers.full)
    resident += vae_numbers(model.vae) * numbers.full
    encoder = _encoder(model, numbers, encoder_away)
    reading = _reading(model, numbers, request, encoder_away, stays)
    beside = stays or (budget is not None and resident + reading.total <= budget)
    drawn = resident + (encoder if stays else 0)
    phases = (
        Phase("read", reading.weights + (resident if beside else 0), reading.activations),
        Phase("draw", drawn + request.adapters, drawing_activations(model.transformer, numbers, request)),
        Phase("decode", drawn + request.adapters, decoding_activations(model.vae, numbers, request, one_by_one, tile)),
    )
    return Layout(stays, beside, encoder_away, away, one_by_one, tile, phases, budget)


def reading_activations(config: Config, numbers: Numbers, tokens: int) -> int:
    """Bytes while one prompt is read."""
    states = (int(config["num_hidden_layers"]) + 2) * int(config["hidden_size"])
    return tokens * numbers.text_full * (states + 3 * int(config["intermediate_size"]))


def looking_activations(config: Config, numbers: Numbers) -> int:
    """Bytes while SigLIP looks at one picture."""
    config = config.get("vision_config", config)
    widths = 4 * int(config.get("hidden_size", 768)) + 2 * int(config.get("intermediate_size", 3072))
    return _SIGHT * numbers.text_full * widths


def drawing_activations(config: Config, numbers: Numbers, request: Request) -> int:
    """Bytes of one call of the transformer."""
    width = int(config["dim"])
    inner, token = int(width / 3 * 8), request.tokens * numbers.full
    unpacked = width * inner * numbers.full if numbers.stored else 0
    rotary = 2 * 8 * (width // int(config["n_heads"]) // 2) * request.tokens
    wide = max(4 * inner * token, 2 * inner * token + unpacked)
    if numbers.stored.endswith("-fast"):  # products before they are scaled take four bytes a number
        wide = 5 * inner * token
    if numbers.stored.endswith("-quanto"):  # scales the weight, not the product
        wide = max(wide, 2 * inner * token + 2 * unpacked)
    # An Omni chooses scales and gates for each token: noisy ones have others than clean ones.
    return wide + (9 if config.get("siglip_feat_dim") else 5) * width * token + rotary


def decoding_activations(config: Config, numbers: Numbers, request: Request, one_by_one: bool, tile: int) -> int:
    """Bytes while latents become pictures, or a larger reference latents."""
    channels = [int(one) for one in config["block_out_channels"]]
    read = [channels[-1], *channels[:0:-1]]  # what each stage reads, from the smallest pictures to the largest
    stages = (3 * width / 4 ** (len(read) - 1 - level) for level, width in enumerate(read))
    width, height = request.largest
    pixels = width * height
    at_once = min(tile, width) * min(tile, height) if tile else pixels
    at_once *= 1 if one_by_one else request.pictures
    kept = 3 * pixels * numbers.full
    seams = kept / _TILE_STRIDE**2 if tile else 0
    done = request.pictures * kept if one_by_one and request.pictures > 1 else 0
    return round(max(stages) * at_once * numbers.full + seams + done)


def training_bytes(
    config: Config,
    full: int,
    tokens: int,
    batch: int,
    checkpointing: bool,
    adapter: int,
    optimizer: int,
    first: int = 0,
) -> Phase:
    """Bytes of a training step: frozen weights and the adapter with its gradient and optimizer; activations.

    full       bytes of a number of the frozen model
    tokens     of one picture and its caption
    adapter    numbers of the adapter
    optimizer  bytes for each of them, itself and its gradient included
    first      main block that learns: nothing is kept of those before it
    """
    kept, peak, end = _KEPT[full]
    blocks, token = int(config["n_layers"]) - first, int(config["dim"]) * full * batch * tokens
    widths = blocks + peak if checkpointing else blocks * kept + end
    return Phase("train", transformer_weights(config).size("", full) + adapter * optimizer, token * widths)


def _reading(model: Model, numbers: Numbers, request: Request, away: int, stays: bool = False) -> Phase:
    """Prompts and pictures are read one after the other; the encoder is gone before SigLIP comes, or stays."""
    encoder = _encoder(model, numbers, away)
    text = Phase("read", encoder, reading_activations(model.text_encoder, numbers, request.caption_tokens))
    if not request.references or model.siglip is None:
        return text
    weights = sight_numbers(model.siglip) * numbers.text_full + (encoder if stays else 0)
    sight = Phase("read", weights, looking_activations(model.siglip, numbers))
    return max(text, sight, key=lambda phase: phase.total)


def _encoder(model: Model, numbers: Numbers, away: int) -> int:
    """Bytes of the text encoder on the card."""
    return _resident(text_encoder_weights(model.text_encoder), away, numbers.text_stored, numbers.text_full)


def _resident(weights: Weights, away: int, stored: str, full: int) -> int:
    """Bytes on the card when so many blocks come only for their turn."""
    return weights.size(stored, full) - max(0, away - PLACES) * weights.moved(stored, full)


def _away(layers: int) -> Iterator[int]:
    """Numbers of blocks that may leave: fewer than three save nothing, for two places stay."""
    return iter((0, *range(PLACES + 1, layers + 1)))


def _tiles(request: Request) -> tuple[int, ...]:
    return tuple(tile for tile in TILES if tile < max(request.largest))


def _padded(tokens: int) -> int:
    return math.ceil(tokens / 32) * 32
