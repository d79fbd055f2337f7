"""How many numbers models and adapters are made of, counted from configurations: no weight is read.

D is a transformer's width, H the width of its feed forward, 8/3 D in Z-Image.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zit_app.core.files import read_json
from zit_app.core.train_settings import LoraSettings

ALPHA_BYTES = 4  # one number a layer, fp32


def transformer_config(model: Path) -> dict[str, Any]:
    """The configuration of a model's transformer."""
    return dict(read_json(model / "transformer" / "config.json"))


def transformer_numbers(config: Mapping[str, Any]) -> int:
    """Weights of a Z-Image transformer, to a thousandth: its blocks, their modulation, the embedding of captions."""
    width, layers, refiners = int(config["dim"]), int(config["n_layers"]), int(config["n_refiner_layers"])
    block = sum(rows * columns for rows, columns in _shapes(width, feed_forward=True))
    modulation = 4 * width * (min(width, 256) + 1)
    caption = width * int(config["cap_feat_dim"])
    return (layers + 2 * refiners) * block + (layers + refiners) * modulation + caption


def text_encoder_numbers(config: Mapping[str, Any]) -> int:
    """Weights of a Qwen3: its vocabulary, and attention and feed forward of its layers."""
    width, head = int(config["hidden_size"]), int(config["head_dim"])
    queries, keys = int(config["num_attention_heads"]) * head, int(config["num_key_value_heads"]) * head
    layer = width * (2 * queries + 2 * keys + 3 * int(config["intermediate_size"]))
    return int(config["vocab_size"]) * width + int(config["num_hidden_layers"]) * layer


def adapter_parameters(lora: LoraSettings, model: Path) -> int:
    """Weights of an adapter on the layers of `lora.targets`; `extra_targets` come on top."""
    return sum(vectors + matrices for vectors, matrices in _adapter(lora, model))


def adapter_bytes(lora: LoraSettings, model: Path) -> int:
    """Its file without the header: matrices in bf16, DoRA's lengths in fp32, an alpha a layer."""
    return sum(4 * vectors + 2 * matrices + ALPHA_BYTES for vectors, matrices in _adapter(lora, model))


def _adapter(lora: LoraSettings, model: Path) -> list[tuple[int, int]]:
    """Numbers in vectors and in matrices, for each layer that learns."""
    config = transformer_config(model)
    layers = _shapes(int(config["dim"]), "feed_forward" in lora.targets) * int(config["n_layers"])
    return [_layer(lora, rows, columns) for rows, columns in layers]


def _layer(lora: LoraSettings, rows: int, columns: int) -> tuple[int, int]:
    if lora.network_type == "lokr":
        small_rows, small_columns = _divisor(rows, lora.lokr_factor), _divisor(columns, lora.lokr_factor)
        tall, wide = rows // small_rows, columns // small_columns
        whole = lora.lokr_full_rank or lora.network_dim >= max(tall, wide) / 2  # peft's rule
        return 0, small_rows * small_columns + (tall * wide if whole else lora.network_dim * (tall + wide))
    return rows if lora.network_type == "dora" else 0, lora.network_dim * (rows + columns)


def _shapes(width: int, feed_forward: bool) -> list[tuple[int, int]]:
    """Outputs and inputs of the linear layers of a block: q, k, v, out, and w1, w3, w2."""
    inner = width * 8 // 3
    return [(width, width)] * 4 + ([(inner, width)] * 2 + [(width, inner)] if feed_forward else [])


def _divisor(width: int, factor: int) -> int:
    """The largest divisor of a width up to the factor: LoKr's small side."""
    return next(one for one in range(min(factor, width), 0, -1) if width % one == 0)
