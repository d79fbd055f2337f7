"""Prompts to the features that the transformer reads.

Shapes: B batch, L tokens, D feature width.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers.modeling_utils import PreTrainedModel
from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def apply_template(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """One user message in the chat template that Z-Image was trained with."""
    message = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, enable_thinking=True))


def token_counter(tokenizer: Path) -> Callable[[str], int]:
    """How many tokens a text is to the text encoder whose tokenizer lies in this folder, the template not counted."""
    words = Qwen2Tokenizer.from_pretrained(tokenizer)
    return lambda text: len(words(text, add_special_tokens=False).input_ids)


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many tokens a text is, its template included where it has one, before any end is cut off."""
    return len(tokenizer(text).input_ids)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    prompts: Sequence[str],
    max_length: int = 512,
) -> list[torch.Tensor]:
    """The features of each prompt, (L, D) each, L its real tokens.

    ``encoder`` is that of `load_text_encoder`, which ends where the features are taken.

    Equal to ``ZImagePipeline.encode_prompt``, which pads to ``max_length``: the encoder is causal and padding stands
    on the right, so real tokens never see it. Padding to the longest prompt costs a fraction.
    """
    return encode_texts(tokenizer, encoder, [apply_template(tokenizer, prompt) for prompt in prompts], max_length)


@torch.no_grad()
def encode_texts(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, texts: Sequence[str], max_length: int
) -> list[torch.Tensor]:
    """The same of texts as they are, without a template around them."""
    tokens = tokenizer(
        list(texts), padding=True, padding_side="right", max_length=max_length, truncation=True, return_tensors="pt"
    )
    # Without a mask: causal attention hides the padding from the real tokens, and its fast kernels want none.
    feats_BLD = encoder(input_ids=tokens.input_ids.to(encoder.device), use_cache=False).last_hidden_state
    return [feats[:count].clone() for feats, count in zip(feats_BLD, tokens.attention_mask.sum(1), strict=True)]
