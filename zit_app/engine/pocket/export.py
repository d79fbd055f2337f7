"""From training states to ``assets/pocket``: diffusers' folder layout, bf16 safetensors, shared parts once."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file
from transformers import Qwen2Tokenizer

from zit_app.engine.pocket.base import CAPTION_WIDTH, DIM, LAYERS, REFINERS, new_encoder
from zit_app.engine.pocket.fast import new_transformer
from zit_app.engine.pocket.states import load_part
from zit_app.engine.pocket.vae import new_vae

FLAVOURS = {
    "pocket": {"name": "turbo", "steps": 8, "guidance": 0.0, "shift": 3.0, "pixels": 128},
    "pocket-base": {"name": "base", "steps": 30, "guidance": 3.0, "shift": 3.0, "pixels": 128},
}
MODEL_INDEX = {
    "_class_name": "ZImagePipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3Model"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "ZImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def _save(module: Any, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    module.to(torch.bfloat16).save_pretrained(folder)


def export_shared(work: Path, assets: Path) -> None:
    """VAE (with the measured shift and scale), text encoder, tokenizer and scheduler."""
    shared = assets / "shared"
    vae = new_vae()
    vae.load_state_dict(load_file(work / "vae.safetensors"))
    vae.register_to_config(**json.loads((work / "vae.json").read_text()))
    _save(vae, shared / "vae")
    encoder = new_encoder()
    encoder.load_state_dict(load_part(work / "base.safetensors", "encoder_ema"))
    _save(encoder, shared / "text_encoder")
    Qwen2Tokenizer.from_pretrained(work / "tokenizer").save_pretrained(shared / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(shared / "scheduler")


def export_flavour(work: Path, assets: Path, name: str) -> None:
    """One flavour's transformer, index and defaults."""
    source = (
        ("base.safetensors", "transformer_ema") if name == "pocket-base" else ("distilled.safetensors", "student_ema")
    )
    transformer = new_transformer(DIM, LAYERS, REFINERS, CAPTION_WIDTH)
    transformer.load_state_dict(load_part(work / source[0], source[1]))
    _save(transformer, assets / name / "transformer")
    (assets / name / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    (assets / name / "flavour.json").write_text(json.dumps({"zit_flavour": FLAVOURS[name]}, indent=2) + "\n")
