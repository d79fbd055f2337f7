"""The names under which trainers write a Z-Image's modules, and what each key of an adapter file stands for.

    diffusion_model.layers.0.attention.to_q.lora_A.weight      ComfyUI, ai-toolkit, ours
    transformer.layers.0.attention.to_q.lora_A.weight          diffusers, OneTrainer
    base_model.model.layers.0.attention.to_q.lora_A.weight     PEFT
    diffusion_model.layers.0.attention.to_q.lora_down.weight   AC-RF trainer
    lora_unet_layers_0_attention_to_q.lora_down.weight         kohya, musubi
    lycoris_layers_0_attention_to_q.lokr_w1                    LyCORIS, SimpleTuner
    layers.0.attention.to_q.lora_A.default.weight              DiffSynth
    ….attention.qkv.…, ….attention.out.…, x_embedder.…         original checkpoint's names, in any of these

Names are compared with every dot, dash and underscore taken for the same, which is what kohya's flattening leaves.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PREFIXES = (
    "base_model_model_", "model_diffusion_model_", "diffusion_model_", "transformer_", "pipe_dit_",
    "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
BLOCK = re.compile(r"(layers|noise_refiner|context_refiner|siglip_refiner)_(\d{1,4})_(.+)")
BLOCK_MODULES = (
    "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0", "attention.norm_q", "attention.norm_k",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0",
    "attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2", "attention.qkv", "attention.out",
)  # fmt: skip
BLOCK_ALIASES = {
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
    "attention.to_out": "attention.to_out.0",
}
OUTER_MODULES = (
    "t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.0", "cap_embedder.1", "siglip_embedder.0",
    "siglip_embedder.1", "all_x_embedder.2-1", "all_final_layer.2-1.linear", "all_final_layer.2-1.adaLN_modulation.1",
)  # fmt: skip
OUTER_ALIASES = {
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}
# Projections of the original checkpoint and the modules of diffusers that they hold, row by row.
FUSED = {
    "attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.out": ("attention.to_out.0",),
}
TEXT_ENCODER = re.compile(r"(lora_te\d?[._]|text_encoders?(_\d)?[._]|te\d?[._]|lora_text_encoder|cond_stage_model\.)")

_ENDING = r"(?:\.(?!weight$|bias$)[^.]{1,64})?"  # PEFT's name of the adapter, "default" as a rule
_PART = re.compile(
    rf"\.(?:(?P<half>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up){_ENDING}\.(?P<kind>weight|bias)"
    rf"|(?P<dora>lora_magnitude_vector){_ENDING}(?:\.weight)?"
    rf"|(?P<part>lokr_w[12](?:_[ab])?|hada_w[12]_[ab]){_ENDING}(?:\.weight)?"
    r"|(?P<plain>alpha|dora_scale|diff|diff_b|w_norm|b_norm))$"
)
_HALVES = {"lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_B": "up", "lora_up": "up", "lora.up": "up"}
_PLAIN = {"w_norm": "diff", "b_norm": "diff_b", "dora_scale": "magnitude"}
_UNSUPPORTED = (
    (re.compile(r"\.(lora_mid|hada_t[12]|lokr_t2)\b"), "a Tucker decomposition, which only convolutions have"),
    (re.compile(r"\.(oft_|boft_|oft\.)"), "OFT, which is not supported"),
    (re.compile(r"\.(a1|a2|b1|b2)\.weight$"), "GLoRA, which is not supported"),
    (re.compile(r"\.on_input$"), "(IA)³, which is not supported"),
    (re.compile(r"\.(vera_|ia3_|set_weight$|reshape_weight$|scalar$)"), "a kind of adapter that is not supported"),
)
_FAMILIES = (
    (re.compile(r"(down|up|mid|input|output|middle)_blocks?[._]"), "Stable Diffusion or SDXL"),
    (re.compile(r"(single_transformer|double|single)_blocks[._]"), "Flux or HunyuanVideo"),
    (re.compile(r"transformer_blocks[._]\d+[._](img|txt)_"), "Qwen-Image"),
    (re.compile(r"joint_blocks[._]"), "Stable Diffusion 3"),
    (re.compile(r"transformer_blocks[._]\d+[._](attn[12]|ff)\b"), "another diffusion transformer (SD3, LTX, PixArt)"),
    (re.compile(r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|attn)"), "Wan or another video model"),
    (re.compile(r"(^|\.)model\.layers\.\d+\.(self_attn|mlp)"), "a language model"),
)
_LAYOUTS = (
    ("model.diffusion_model.", "all-in-one"), ("diffusion_model.", "ComfyUI"), ("transformer.", "diffusers"),
    ("base_model.model.", "PEFT"), ("lora_unet_", "kohya"), ("lora_transformer_", "OneTrainer"),
    ("lycoris_", "LyCORIS"), ("pipe.dit.", "DiffSynth"), ("", "without prefix"),
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """What a key stands for: the module by its name in diffusers (fused ones by the original's), and which part."""

    module: str
    part: str


def parse_key(key: str) -> Key | None:
    """The meaning of a key, None when it is none that a Z-Image's transformer knows."""
    found = _PART.search(key)
    module = module_name(key[: found.start()]) if found else None
    if found is None or module is None:
        return None
    if found["half"]:
        half = _HALVES[found["half"]]
        if found["kind"] == "bias" and half == "down":
            return None
        return Key(module, half if found["kind"] == "weight" else "up_bias")
    if found["dora"]:
        return Key(module, "magnitude")
    return Key(module, found["part"] or _PLAIN.get(found["plain"], found["plain"]))


def module_name(text: str) -> str | None:
    """diffusers' name of a module that is written in any way; None when a Z-Image has no such module."""
    flat = _flat(text)
    while stripped := next((flat[len(prefix) :] for prefix in PREFIXES if flat.startswith(prefix)), ""):
        flat = stripped
    if flat in _OUTER:
        return _OUTER[flat]
    block = BLOCK.fullmatch(flat)
    if block is None or block[3] not in _TAILS:
        return None
    return f"{block[1]}.{int(block[2])}.{_TAILS[block[3]]}"


def modules_of(name: str) -> tuple[str, ...]:
    """The modules of diffusers that a name stands for: three for a fused q, k, v projection."""
    block, number, tail = (*name.split(".", 2), "", "")[:3]
    return tuple(f"{block}.{number}.{own}" for own in FUSED[tail]) if tail in FUSED else (name,)


def unsupported(key: str) -> str | None:
    """What a key belongs to, in words, when it is of a kind of adapter that is known but not supported."""
    return next((words for pattern, words in _UNSUPPORTED if pattern.search(key)), None)


def family(keys: list[str]) -> str | None:
    """The family of models that keys foreign to a Z-Image come from, by their names."""
    return next((name for pattern, name in _FAMILIES if any(pattern.search(key) for key in keys)), None)


def layout(keys: Iterable[str]) -> str:
    """Whose way of writing keys this is."""
    found = Counter(next(name for prefix, name in _LAYOUTS if key.startswith(prefix)) for key in keys)
    return found.most_common(1)[0][0] if found else ""


def shown(key: str) -> str:
    """A key for a person's eyes: one line, no control characters, no novel."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in key[:80])
    return f"{clean}…" if len(key) > 80 else clean


def _flat(text: str) -> str:
    return re.sub(r"[._\-]+", "_", text)


_TAILS = {_flat(name): name for name in BLOCK_MODULES} | {_flat(k): v for k, v in BLOCK_ALIASES.items()}
_OUTER = {_flat(name): name for name in OUTER_MODULES} | {_flat(k): v for k, v in OUTER_ALIASES.items()}
