"""Captioners in miniature with random weights, in the file layout of their hubs: Qwen3-VL, Florence-2, LLaVA.

What they say means nothing; how they are loaded, asked, batched and freed is what real ones need.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    CLIPVisionConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

FAMILIES = ("qwen3_vl", "florence2", "llava")
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>")  # fmt: skip
_QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
    "{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As JoyCaption's: text only; the template puts the picture there itself, and begins with the beginning of a text.
_LLAVA_CHAT = (
    "<s>{% for message in messages %}{% if message.role == 'user' %}[USER]<image>{{ message.content }}[/USER]"
    "{% endif %}{% endfor %}"
)


def make_captioner(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a complete folder of one of `FAMILIES` and return it. fp32, the same for the same seed."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    {"qwen3_vl": _qwen, "florence2": _florence, "llava": _llava}[family](folder)
    return folder


def _qwen(folder: Path) -> None:
    words = _tokenizer(folder, _QWEN, eos="<|im_end|>", pad="<|endoftext|>")
    number = words.convert_tokens_to_ids
    text = dict(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=1, head_dim=16, max_position_embeddings=4096,
                initializer_range=0.5,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2],
                                 "mrope_interleaved": True})  # fmt: skip
    vision = dict(depth=2, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=16, out_hidden_size=32,
                  num_position_embeddings=64, deepstack_visual_indexes=[0])  # fmt: skip
    config = Qwen3VLConfig(
        text_config=text, vision_config=vision, image_token_id=number("<|image_pad|>"),
        video_token_id=number("<|video_pad|>"), vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"), tie_word_embeddings=False,
    )  # fmt: skip
    _save(Qwen3VLForConditionalGeneration(config), folder, words)
    pictures = {"size": {"longest_edge": 16777216, "shortest_edge": 1024}, "patch_size": 16, "temporal_patch_size": 2,
                "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
                "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"}  # fmt: skip
    _json(folder / "preprocessor_config.json", pictures)
    films = {**pictures, "video_processor_type": "Qwen3VLVideoProcessor"}
    del films["image_processor_type"]
    _json(folder / "video_preprocessor_config.json", films)
    _json(folder / "chat_template.json", {"chat_template": _QWEN_CHAT})


def _florence(folder: Path) -> None:
    words = _tokenizer(folder, ("<s>", "<pad>", "</s>", "<image>"), eos="</s>", pad="<pad>", bos="<s>",
                       image_token="<image>")  # fmt: skip
    special = {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id,
               "eos_token_id": words.eos_token_id, "decoder_start_token_id": words.bos_token_id}  # fmt: skip
    vision = dict(depths=(1, 1, 1), patch_size=(7, 3, 3), patch_stride=(4, 2, 2), patch_padding=(3, 1, 1),
                  patch_prenorm=(False, True, True), embed_dim=(16, 16, 32), num_heads=(2, 2, 2), num_groups=(2, 2, 2),
                  window_size=4, projection_dim=32, max_temporal_embeddings=1, max_position_embeddings=4)  # fmt: skip
    text = BartConfig(vocab_size=len(words), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                      decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
                      max_position_embeddings=128, **special)  # fmt: skip
    config = Florence2Config(text_config=text, vision_config=vision,
                             image_token_id=words.convert_tokens_to_ids("<image>"), **special)  # fmt: skip
    _save(Florence2ForConditionalGeneration(config), folder, words, num_beams=3)
    side = {"height": 64, "width": 64}
    _json(folder / "preprocessor_config.json", {
        "crop_size": side, "do_center_crop": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "size": side,
        "image_seq_length": 17, "image_processor_type": "CLIPImageProcessor", "processor_class": "Florence2Processor",
    })  # fmt: skip


def _llava(folder: Path) -> None:
    words = _tokenizer(folder, ("<s>", "<pad>", "</s>", "<image>"), eos="</s>", pad="<pad>", bos="<s>")
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
                              image_size=64, patch_size=16, projection_dim=32)  # fmt: skip
    text = LlamaConfig(vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                       num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=4096)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, vision_feature_select_strategy="full",
                         image_token_index=words.convert_tokens_to_ids("<image>"), vision_feature_layer=-2)  # fmt: skip
    _save(LlavaForConditionalGeneration(config), folder, words)
    _json(folder / "preprocessor_config.json", {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3, "resample": 2, "size": {"height": 64, "width": 64},
        "image_processor_type": "SiglipImageProcessor", "processor_class": "LlavaProcessor",
    })  # fmt: skip
    _json(folder / "processor_config.json", {
        "image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 16,
        "vision_feature_select_strategy": "full", "processor_class": "LlavaProcessor",
    })  # fmt: skip
    _json(folder / "chat_template.json", {"chat_template": _LLAVA_CHAT})


def _tokenizer(folder: Path, special: tuple[str, ...], **roles: Any) -> PreTrainedTokenizerFast:
    """Byte by byte, without merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    image = roles.pop("image_token", None)
    more: dict[str, Any] = {"extra_special_tokens": {"image_token": image}} if image else {}
    words = PreTrainedTokenizerFast(tokenizer_object=made, **{f"{name}_token": text for name, text in roles.items()},
                                    **more)  # fmt: skip
    words.save_pretrained(folder)
    return words


def _save(model: PreTrainedModel, folder: Path, words: PreTrainedTokenizerFast, **generation: Any) -> None:
    model.save_pretrained(folder)
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, **generation}
    _json(folder / "generation_config.json", json.loads((folder / "generation_config.json").read_text()) | ids)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))
