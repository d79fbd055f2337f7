"""How many numbers models and adapters are made of, counted from configurations: no weight is read, no torch needed.

D is a transformer's width, F = 8/3 D that of its feed forward, H a text encoder's width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zit_app.core.files import read_json
from zit_app.core.train_settings import LoraSettings

ALPHA_BYTES = 4  # one number a layer, fp32
NULL_SPACE_DIRECTIONS = 512  # of each input at the most
MODULATION = 256  # inputs of adaLN, at the most
_TIME_INNER, _TIME_INPUTS = 1024, 256  # of the embedding of the noise level
_NF4_BLOCK = 64

Config = Mapping[str, Any]
Shape = tuple[int, int]  # outputs, inputs


@dataclass(frozen=True)
class Weights:
    """Numbers of a transformer or text encoder.

    linears  layers of one main block that number formats pack
    plain    numbers in other linear layers of a main block (adaLN); they leave the card with the block
    norms    numbers in a main block's norms, which never leave
    blocks   main blocks
    outside  layers outside of them that are packed, too (refiners)
    rest     all other numbers outside of the main blocks
    """

    linears: tuple[Shape, ...]
    plain: int
    norms: int
    blocks: int
    outside: tuple[Shape, ...]
    rest: int

    @property
    def numbers(self) -> int:
        """Parameters in all."""
        block = sum(rows * columns for rows, columns in self.linears) + self.plain + self.norms
        return self.blocks * block + sum(rows * columns for rows, columns in self.outside) + self.rest

    def size(self, stored: str, number: int) -> int:
        """Bytes in all, the packed layers kept as ``stored`` ("" = in full), ``number`` bytes one in full."""
        outside = sum(stored_bytes(shape, stored, number) for shape in self.outside)
        return self.blocks * (self.moved(stored, number) + self.norms * number) + outside + self.rest * number

    def moved(self, stored: str, number: int) -> int:
        """Bytes of a main block that can leave the card."""
        return sum(stored_bytes(shape, stored, number) for shape in self.linears) + self.plain * number


def stored_bytes(shape: Shape, stored: str, number: int) -> int:
    """Bytes of one linear layer's weight with its scales."""
    rows, columns = shape
    stored = stored.removesuffix("-fast")
    if stored in ("int8", "fp8"):
        return rows * columns + 4 * rows
    if stored == "nf4":
        return rows * columns // 2 + 4 * -(-rows * columns // _NF4_BLOCK)
    if stored:  # quanto's scales are in the format of the computation; two more, unused, for inputs and outputs
        return rows * columns + number * (rows + 2)
    return rows * columns * number


def transformer_config(model: Path) -> dict[str, Any]:
    """The configuration of a model's transformer."""
    return dict(read_json(model / "transformer" / "config.json"))


def transformer_weights(config: Config) -> Weights:
    """Of a Z-Image transformer: blocks, their modulation, the embedders, and SigLIP's where it has them."""
    width, layers, refiners = int(config["dim"]), int(config["n_layers"]), int(config["n_refiner_layers"])
    norms = 4 * width + (2 * (width // int(config["n_heads"])) if config.get("qk_norm", True) else 0)
    modulation = 4 * width * (min(width, MODULATION) + 1)
    linears = tuple(_shapes(width, feed_forward=True))
    captions, sight = int(config["cap_feat_dim"]), config.get("siglip_feat_dim")
    patch = 4 * int(config["in_channels"])
    time = _TIME_INNER * (_TIME_INPUTS + 1) + min(width, MODULATION) * (_TIME_INNER + 1)
    last = patch * (width + 1) + width * (min(width, MODULATION) + 1)
    rest = width * (patch + 1) + time + last + captions + width * (captions + 1) + 2 * width
    rest += refiners * (modulation + 2 * norms)
    if sight:
        rest += int(sight) + width * (int(sight) + 1) + width + refiners * norms
    outside = linears * (refiners * (3 if sight else 2))
    return Weights(linears, modulation, norms, layers, outside, rest)


def text_encoder_weights(config: Config) -> Weights:
    """Of a Qwen3 without the head that guesses the next word."""
    width, head = int(config["hidden_size"]), int(config["head_dim"])
    queries, keys = int(config["num_attention_heads"]) * head, int(config["num_key_value_heads"]) * head
    inner = int(config["intermediate_size"])
    attention = ((queries, width), (keys, width), (keys, width), (width, queries))
    linears = (*attention, (inner, width), (inner, width), (width, inner))
    rest = int(config["vocab_size"]) * width + width
    return Weights(linears, 0, 2 * width + 2 * head, int(config["num_hidden_layers"]), (), rest)


def sight_numbers(config: Config) -> int:
    """Parameters of an Omni's SigLIP 2; what its configuration leaves out is as in transformers."""
    config = config.get("vision_config", config)
    width, inner = int(config.get("hidden_size", 768)), int(config.get("intermediate_size", 3072))
    patch = int(config.get("num_channels", 3)) * int(config.get("patch_size", 16)) ** 2
    feed_forward = 2 * width * inner + inner + width
    layer = 4 * width + 4 * width * (width + 1) + feed_forward
    embedding = width * (patch + 1) + int(config.get("num_patches", 256)) * width
    head = width + 4 * width * (width + 1) + 2 * width + feed_forward  # it has one that is not asked
    return embedding + int(config.get("num_hidden_layers", 12)) * layer + 2 * width + head


def transformer_numbers(config: Config) -> int:
    """Parameters of a Z-Image transformer."""
    return transformer_weights(config).numbers


def text_encoder_numbers(config: Config) -> int:
    """Parameters of a Qwen3."""
    return text_encoder_weights(config).numbers


def vae_numbers(config: Config) -> int:
    """Parameters of an autoencoder of diffusers' plain build (convolutions, one attention in the middle)."""
    channels, depth = [int(one) for one in config["block_out_channels"]], int(config["layers_per_block"])
    latents, top = int(config["latent_channels"]), channels[-1]
    attention = 2 * top + 4 * (top * top + top) if config.get("mid_block_add_attention", True) else 0
    middle = 2 * _resnet(top, top) + attention
    ends = {"encoder": (3, 2 * latents, channels, depth), "decoder": (latents, 3, channels[::-1], depth + 1)}
    total = 0
    for given, made, widths, count in ends.values():
        total += _conv(given, widths[0]) + middle + 2 * widths[-1] + _conv(widths[-1], made)
        before = widths[0]
        for level, own in enumerate(widths):
            total += _resnet(before, own) + (count - 1) * _resnet(own, own)
            total += _conv(own, own) if level < len(widths) - 1 else 0
            before = own
    quantized = (2 * latents) * (2 * latents + 1) if config.get("use_quant_conv", True) else 0
    return total + quantized + (latents * (latents + 1) if config.get("use_post_quant_conv", True) else 0)


def adapter_parameters(lora: LoraSettings, model: Path) -> int:
    """Weights of an adapter on the layers of `lora.targets`; `extra_targets` come on top."""
    return adapter_numbers(lora, transformer_config(model))


def adapter_numbers(lora: LoraSettings, config: Config) -> int:
    """The same from the transformer's configuration."""
    return sum(vectors + matrices for vectors, matrices in _adapter(lora, config))


def adapter_bytes(lora: LoraSettings, model: Path) -> int:
    """Its file without the header: matrices in bf16, DoRA's lengths in fp32, an alpha a layer."""
    layers = _adapter(lora, transformer_config(model))
    return sum(4 * vectors + 2 * matrices + ALPHA_BYTES for vectors, matrices in layers)


def null_space_numbers(lora: LoraSettings, config: Config) -> int:
    """Of the directions that `training.protection = "null_space"` keeps: one set for each input that layers share."""
    shapes = _shapes(int(config["dim"]), "feed_forward" in lora.targets)
    widths = [shapes[first][1] for first in (0, 3, 4, 6) if first < len(shapes)]  # of q k v; out; w1 w3; w2
    blocks = lora.learning_blocks(int(config["n_layers"]))
    return len(blocks) * sum(width * min(width, NULL_SPACE_DIRECTIONS) for width in widths)


def _adapter(lora: LoraSettings, config: Config) -> list[tuple[int, int]]:
    """Numbers in vectors and in matrices, for each layer that learns."""
    blocks = lora.learning_blocks(int(config["n_layers"]))
    layers = _shapes(int(config["dim"]), "feed_forward" in lora.targets) * len(blocks)
    return [_layer(lora, rows, columns) for rows, columns in layers]


def _layer(lora: LoraSettings, rows: int, columns: int) -> tuple[int, int]:
    if lora.network_type == "lokr":
        small_rows, small_columns = _divisor(rows, lora.lokr_factor), _divisor(columns, lora.lokr_factor)
        tall, wide = rows // small_rows, columns // small_columns
        whole = lora.lokr_full_rank or lora.network_dim >= max(tall, wide) / 2  # peft's rule
        return 0, small_rows * small_columns + (tall * wide if whole else lora.network_dim * (tall + wide))
    return rows if lora.network_type == "dora" else 0, lora.network_dim * (rows + columns)


def _shapes(width: int, feed_forward: bool) -> list[Shape]:
    """Outputs and inputs of the linear layers of a block: q, k, v, out, and w1, w3, w2."""
    inner = int(width / 3 * 8)
    return [(width, width)] * 4 + ([(inner, width)] * 2 + [(width, inner)] if feed_forward else [])


def _divisor(width: int, factor: int) -> int:
    """The largest divisor of a width up to the factor: LoKr's small side."""
    return next(one for one in range(min(factor, width), 0, -1) if width % one == 0)


def _conv(given: int, made: int) -> int:
    return 9 * given * made + made


def _resnet(given: int, made: int) -> int:
    shortcut = given * made + made if given != made else 0
    return 2 * given + _conv(given, made) + 2 * made + _conv(made, made) + shortcut
