"""Captions of the pocket world, English and Chinese, and the tokenizer that is trained on them.

Forms: ``flat emoji, red apple`` (layout open) · ``flat emoji, red apple, centered, white background`` (canonical) ·
the same in Chinese · any of the layout's attributes named, each only sometimes · without a style word, any style.
"""

import json
from itertools import product
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from zit_app.engine.pocket.concepts import KNOWN_STYLES, Concept
from zit_app.engine.pocket.pictures import BACKGROUNDS, SIZE

STYLE_WORDS = {"3d": ("3d", "立体"), "flat": ("flat", "扁平"), "classic": ("classic", "经典")}
COLOR_WORDS_ZH = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "teal": "青色", "blue": "蓝色",
    "purple": "紫色", "pink": "粉色", "brown": "棕色", "gray": "灰色", "black": "黑色", "white": "白色",
}  # fmt: skip
VOCABULARY = 4096
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# Qwen3's template reduced to what the pipeline uses: one user message, generation prompt, thinking left open.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)


def thing_words(concept: Concept, style: str | None, chinese: bool, second: Concept | None = None) -> str:
    """Style and thing: the head of every caption. ``style`` None leaves the style open."""
    if chinese:
        head = f"{STYLE_WORDS[style][1]}表情，" if style else "表情，"
        return head + concept.zh + (f"和{second.zh}" if second else "")
    head = f"{STYLE_WORDS[style][0]} emoji, " if style else "emoji, "
    return head + concept.en + (f" and {second.en}" if second else "")


def canonical_caption(concept: Concept, style: str, chinese: bool = False) -> str:
    """The prompt of every score of recall and style."""
    return thing_words(concept, style, chinese) + ("，居中，白色背景" if chinese else ", centered, white background")


def open_caption(concept: Concept, style: str, chinese: bool = False) -> str:
    """The prompt of every score of diversity: the layout is left to the seed."""
    return thing_words(concept, style, chinese)


def layout_words(record: dict, chinese: bool) -> list[str]:
    """All attributes that this layout can be described with; a caption names some of them."""
    words = []
    if record["extent"] <= 60:
        words.append("小" if chinese else "small")
    elif record["extent"] >= 96:
        words.append("大" if chinese else "large")
    x, y = record["center"]
    side = "left" if x < SIZE * 0.4 else "right" if x > SIZE * 0.6 else ""
    height = "top" if y < SIZE * 0.4 else "bottom" if y > SIZE * 0.6 else ""
    place_zh = {"left": "左", "right": "右", "top": "上", "bottom": "下", "": ""}
    if (side or height) and not record["second"]:
        words.append(f"{place_zh[side]}{place_zh[height]}方" if chinese else f"at the {f'{height} {side}'.strip()}")
    if record["mirrored"]:
        words.append("镜像" if chinese else "mirrored")
    if record["turn"]:
        words.append("倾斜" if chinese else "tilted")
    color = COLOR_WORDS_ZH[record["background"]] if chinese else record["background"]
    if record["gradient"]:
        words.append(f"{color}渐变背景" if chinese else f"{color} gradient background")
    else:
        words.append(f"{color}背景" if chinese else f"{color} background")
    return words


def caption(record: dict, concepts: list[Concept], random: Random) -> str:
    """A fresh caption for one bank record."""
    chinese = random.random() < 0.45
    style = KNOWN_STYLES[record["style"]] if random.random() < 0.92 else None
    concept = concepts[record["concept"]]
    second = concepts[record["second"][0]] if record["second"] else None
    head = thing_words(concept, style, chinese, second)
    if record["canonical"]:
        return head + ("，居中，白色背景" if chinese else ", centered, white background")
    if random.random() < 0.4:
        return head
    named = [word for word in layout_words(record, chinese) if random.random() < 0.5]
    return ("，" if chinese else ", ").join([head, *named])


def train_tokenizer(folder: Path, concepts: list[Concept], outside: list[Concept]) -> Qwen2Tokenizer:
    """A byte-level BPE with Qwen's pre-tokenizer, trained on the words of both languages; saved to ``folder``."""
    reference = Qwen2Tokenizer(vocab={"a": 0}, merges=[]).backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = reference.pre_tokenizer
    tokenizer.normalizer = reference.normalizer
    layouts = [
        {"extent": e, "center": (x, y), "mirrored": True, "turn": 12, "background": b, "gradient": g, "second": None}
        for e, x, y, b, g in product((50, 100), (20, 64, 108), (20, 64, 108), BACKGROUNDS, (None, "red"))
    ]
    lines = ["user\nassistant\n"] * 200
    for concept, chinese, style in product([*concepts, *outside], (False, True), KNOWN_STYLES):
        lines.append(canonical_caption(concept, style, chinese))
        lines.append(thing_words(concept, None, chinese, concept))
    lines += ["，".join(layout_words(layout, True)) for layout in layouts]
    lines += [", ".join(layout_words(layout, False)) for layout in layouts]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    vocab = dict(learned["vocab"])
    for i, token in enumerate(SPECIAL_TOKENS):
        vocab[token] = len(learned["vocab"]) + i
    result = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(m) for m in learned["merges"]],  # type: ignore[misc]
        unk_token=None,  # type: ignore[arg-type]
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>"],
    )
    result.chat_template = CHAT_TEMPLATE
    result.save_pretrained(folder)
    return result


def templated(tokenizer: Qwen2Tokenizer, prompt: str) -> str:
    """The text that ZImagePipeline feeds to the encoder for this prompt."""
    return str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
    )
