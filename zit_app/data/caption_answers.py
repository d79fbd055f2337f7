"""From what a captioner answers to a caption: without introductions, quotes and markdown, and not too long."""

import re
from collections.abc import Callable

_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?s>|<loc_\d+>|<(?:pad|bos|eos|unk|image)>")
_KIND = r"(?:image|picture|photo(?:graph)?|illustration|drawing|painting|scene|shot|artwork)"
_SHOWS = (
    r"(?:shows|showcases|depicts|features|displays|presents|portrays|captures|contains|illustrates|"
    r"appears to (?:be|show|depict)(?: of)?|is of|is showing|is depicting)"
)
_ADJECTIVES = r"(?:[\w-]+ ){0,3}?"
# Beginnings that say that there is a picture. What is an answer of its own ("The image of a saint …") stays.
_OPENINGS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?:sure|certainly|of course|okay|ok|absolutely)\b[^.:：!。！]{0,80}[.:：!。！]\s*",
        r"here(?:'s| is| are)\b[^.:：\n]{0,80}[:：]\s*",
        r"(?:detailed |image |short )?(?:caption|description|prompt|answer)\s*[:：]\s*",
        rf"(?:in|within) (?:this|the) {_ADJECTIVES}{_KIND},? (?:we (?:can )?see |you (?:can )?see |there (?:is|are) )?",
        rf"(?:this|the) {_ADJECTIVES}{_KIND} (?:(?:vividly|clearly|prominently|simply) )?{_SHOWS} ",
        rf"(?:(?:this|the) {_ADJECTIVES}{_KIND}|this|it) is (?=an? {_ADJECTIVES}{_KIND}\b)",
        r"(?:好的|当然|没问题)[^:：。！]{0,30}[:：。！]\s*",
        r"(?:以下|下面)(?:是|为)[^:：]{0,30}[:：]\s*",
        r"(?:图片|图像|画面)?(?:描述|说明|标题|内容)\s*[:：]\s*",
        r"(?:在)?(?:这|该|此|本)?(?:张|幅|个)?(?:图片|图像|照片|画面|插图|画作|图)(?:中|里|上|内)?"
        r"(?:的内容)?(?:(?:主要)?(?:展示|展现|显示|描绘|呈现|拍摄|描述|刻画|记录|捕捉)(?:的是|了|着|出)?|是|为|有|可以?看到|[,，:：])\s*",
    )
]
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』", "«": "»", "`": "`"}
_SENTENCE = re.compile(r"(?<=[.!?…])[\"”’')]?\s+|(?<=[。！？；])[”’」』]?\s*")
_PHRASE = re.compile(r"\s*[,;，、；]\s*")


def cleaned(answer: str, count: Callable[[str], int], most: int) -> str:
    """The answer as a caption of at most `most` tokens; "" when nothing is left. `count` counts tokens.

    A long answer ends with the last whole sentence that fits, else part between commas, else word or letter.
    """
    text = _SPECIAL.sub(" ", answer.rpartition("</think>")[2])
    text = _without_markdown(text)
    text = _unquoted(re.sub(r"\s+", " ", text).strip())
    text = _without_opening(text)
    return _shortened(_unquoted(text), count, most)


def _without_markdown(text: str) -> str:
    text = re.sub(r"^\s*```\w*\s*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<![\s.,:;!?。，：；！？])[^\S\n]*\n\s*(?:[-*•+]|\d{1,2}[.)])\s+", ", ", text)  # a list
    text = re.sub(r"^\s*(?:#{1,6}\s+|>\s+|[-*•+]\s+|\d{1,2}[.)]\s+)", "", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])", r"\1", text)
    return text.replace("`", "")


def _without_opening(text: str) -> str:
    """The text without any number of introductions in front, beginning with a capital again."""
    before = None
    while before != text:
        before = text
        for opening in _OPENINGS:
            match = opening.match(text)
            if match and match.end() < len(text):
                text = _unquoted(text[match.end() :].lstrip(" ,，:："))
    return text[:1].upper() + text[1:] if before is not None and text[:1].islower() and _is_prose(text) else text


def _is_prose(text: str) -> bool:
    """Whether it is written in sentences; tags ("red apple, centered") stay in small letters."""
    return text.endswith((".", "!", "?"))


def _unquoted(text: str) -> str:
    """The text without quotation marks around the whole of it; a quotation inside stays."""
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _shortened(text: str, count: Callable[[str], int], most: int) -> str:
    if count(text) <= most:
        return text
    for marks in (_SENTENCE, _PHRASE):
        ends = [match.start() for match in marks.finditer(text)]
        fitting = _last_fitting(text, ends, count, most)
        if fitting:
            return fitting
    words = [match.start() for match in re.finditer(r"\s+|(?=[\u3400-\u9fff])", text)]
    return _last_fitting(text, words, count, most) or _last_fitting(text, list(range(len(text))), count, most)


def _last_fitting(text: str, ends: list[int], count: Callable[[str], int], most: int) -> str:
    """The longest beginning that fits. More text is never fewer tokens by more than one, so halving finds it."""
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[: ends[middle - 1]]) <= most:
            low = middle
        else:
            high = middle - 1
    return text[: ends[low - 1]].rstrip() if low else ""
