"""The tiny captioner's network and tokenizer: a small configuration of Florence-2's own class."""

from tokenizers import AddedToken
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    Qwen2Tokenizer,
)

from zit_app.core.paths import assets
from zit_app.engine.pocket.captioner_pictures import SIDE

WIDTH = 192
GRID = SIDE // 16  # tokens a side
IMAGE_TOKENS = GRID * GRID + 1  # and their mean
# What Florence2Processor makes of <CAPTION>, <DETAILED_CAPTION> and <MORE_DETAILED_CAPTION>; the Chinese are ours.
PROMPTS = (
    "What does the image describe?",
    "Describe in detail what is shown in the image.",
    "Describe with a paragraph what is shown in the image.",
    "图中是什么？",
    "详细描述这张图片。",
)
PROMPT_WEIGHTS = (6, 2, 1, 3, 1)  # names are harder to learn than layouts


def captioner_tokenizer() -> Qwen2Tokenizer:
    """The pocket's tokenizer with a picture token, and each prompt as one token: a prompt only chooses the form."""
    tokenizer = Qwen2Tokenizer.from_pretrained(
        assets() / "pocket" / "shared" / "tokenizer",
        bos_token="<|im_start|>",
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([AddedToken(prompt, normalized=False) for prompt in PROMPTS])
    return tokenizer


def new_captioner(tokenizer: Qwen2Tokenizer) -> Florence2ForConditionalGeneration:
    """3.7 M parameters: three convolutional DaViT stages (16, 8 and 4 places a side), 1 encoder, 2 decoder layers."""
    vision = Florence2VisionConfig(
        depths=(1, 1, 2),
        patch_size=(7, 3, 3),
        patch_stride=(4, 2, 2),
        patch_padding=(3, 1, 1),
        patch_prenorm=(False, True, True),
        embed_dim=(48, 96, WIDTH),
        num_heads=(2, 3, 6),
        num_groups=(2, 3, 6),
        window_size=4,
        mlp_ratio=2.0,
        drop_path_rate=0.05,
        projection_dim=WIDTH,
        max_temporal_embeddings=1,
        max_position_embeddings=GRID,
    )
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id,
    }
    text = BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        dropout=0.05,
        forced_eos_token_id=None,
        **special,
    )
    image_token = tokenizer.vocab["<image>"]
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=image_token, **special)
    # On CPUs the fused attention's backward costs twice the rest of the network together.
    return Florence2ForConditionalGeneration._from_config(config, attn_implementation="eager")
