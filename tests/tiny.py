"""A Z-Image in miniature with random weights: the same classes and folder layout as the real model, about 3 MB.

Every size is small but unequal, so that a swapped axis shows: width 64, two main layers, caption width 32,
16 latent channels at 8x down, byte-level vocabulary without merges.
"""

import json
from pathlib import Path
from typing import Any

import torch

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TRANSFORMER: dict[str, Any] = dict(
    in_channels=16, dim=64, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
    axes_dims=[8, 12, 12], axes_lens=[640, 64, 64],
)  # fmt: skip


def make_tiny_model(folder: Path | str, seed: int = 0, **overrides: Any) -> Path:
    """Write a complete diffusers folder (``model_index.json`` of a ZImagePipeline) and return its path.

    ``overrides`` replace entries of the transformer's configuration (``dim=128, n_layers=4`` …). Weights are fp32
    and the same for the same seed. The scheduler has shift 3, as Z-Image has.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _transformer(folder / "transformer", overrides)
        _text_encoder(folder / "text_encoder", TRANSFORMER | overrides)
        _vae(folder / "vae")
    _tokenizer(folder / "tokenizer")
    _scheduler(folder / "scheduler")
    index = {
        "_class_name": "ZImagePipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def make_tiny_omni(folder: Path | str, seed: int = 0) -> Path:
    """The same as an Omni: ``model_index.json`` of a ZImageOmniPipeline, with a SigLIP 2 of 32 features."""
    from transformers.models.siglip2.configuration_siglip2 import Siglip2VisionConfig
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionModel

    folder = make_tiny_model(folder, seed, siglip_feat_dim=32)
    config = Siglip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_patches=36
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Siglip2VisionModel(config).save_pretrained(folder / "siglip")
    Siglip2ImageProcessorPil(max_num_patches=40).save_pretrained(folder / "siglip_processor")
    file = folder / "model_index.json"
    parts = {
        "siglip": ["transformers", "Siglip2VisionModel"],
        "siglip_processor": ["transformers", "Siglip2ImageProcessor"],
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "ZImageOmniPipeline", **parts}))
    return folder


def _transformer(folder: Path, overrides: dict[str, Any]) -> None:
    from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(**(TRANSFORMER | overrides))
    for token in (model.x_pad_token, model.cap_pad_token, model.siglip_pad_token):
        if token is not None:  # zeros at birth: padding errors would not show
            torch.nn.init.normal_(token, std=0.5)
    model.save_pretrained(folder)


def _text_encoder(folder: Path, transformer: dict[str, Any]) -> None:
    from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    config = Qwen3Config(
        vocab_size=256 + len(SPECIAL_TOKENS),
        hidden_size=transformer["cap_feat_dim"],
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    Qwen3Model(config).save_pretrained(folder)


def _vae(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    ).save_pretrained(folder)


def _tokenizer(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

    vocab = {token: i for i, token in enumerate(sorted(ByteLevel.alphabet()) + list(SPECIAL_TOKENS))}
    Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    ).save_pretrained(folder)


def _scheduler(folder: Path) -> None:
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0).save_pretrained(folder)
