"""What a captioner is asked: one question for each use of the captions, in English and Chinese.

What is constant in the pictures and is not described is learnt as part of the adapter and called by its trigger word;
what is described stays free to change. So a caption for a person leaves out the face, one for a style leaves out the
style, one for a product leaves out its design.
"""

from zit_app.core.captioners import Question

_QUESTIONS = {
    ("person", "en"): (
        "Describe this picture in one paragraph of 40 to 90 words. {call}Do not describe the person's face, eyes, "
        "skin, hair, age or build. Describe pose, expression, clothing, surroundings, light, colours and framing."
    ),
    ("person", "zh"): (
        "用一段 60 到 120 字的中文描述这张图片。{call}不要描述人物的长相、眼睛、肤色、发型、年龄和体型；"
        "请描述姿态、表情、服装、环境、光线、色彩和构图。"
    ),
    ("style", "en"): (
        "Describe only what this picture shows, in one paragraph of 40 to 90 words: subjects, what they do, where they "
        "are, what lies around them, where each thing is. Do not mention the medium, art style, artist, technique, "
        "brush strokes, rendering, mood or quality."
    ),
    ("style", "zh"): (
        "用一段 60 到 120 字的中文，只描述图片的内容：主体、动作、所在的地方、周围的事物以及各自的位置。"
        "不要提及媒介、画风、艺术家、技法、笔触、渲染方式、氛围和画质。"
    ),
    ("product", "en"): (
        "Describe this picture in one paragraph of 40 to 90 words. {call}Name what kind of product it is, but do not "
        "describe its own shape, material, pattern, logo or design. Describe the angle, its place in the picture, what "
        "is around it, background, surface, light and framing."
    ),
    ("product", "zh"): (
        "用一段 60 到 120 字的中文描述这张图片。{call}说出它是哪一类产品，但不要描述产品本身的形状、材质、图案、"
        "标志和设计；请描述拍摄角度、在画面中的位置、周围的事物、背景、承托面、光线和构图。"
    ),
    ("free", "en"): (
        "Describe this picture in one paragraph of 60 to 120 words: subjects, actions, surroundings, light, colours, "
        "framing and the kind of picture it is."
    ),
    ("free", "zh"): (
        "用一段 80 到 160 字的中文描述这张图片：主体、动作、环境、光线、色彩、构图，以及它是哪一种图片。"
    ),
}
_CALL = {
    ("person", "en"): 'Call the person "{trigger}". ',
    ("person", "zh"): "图中人物一律称为“{trigger}”。",
    ("product", "en"): 'Call the product "{trigger}". ',
    ("product", "zh"): "图中产品一律称为“{trigger}”。",
}
_ALWAYS = {
    "en": " State facts only, without an introduction, headings or lists. Quote visible text exactly as it is written.",
    "zh": "直接陈述事实，不要开场白、标题和列表。图中的文字请用引号原样写出。",
}


def question(style: str, language: str, trigger: str = "") -> Question:
    """The question for captions of this kind (`caption_settings.STYLES`) and language, with the word to call it by."""
    call = _CALL.get((style, language), "").format(trigger=trigger) if trigger else ""
    return Question(_QUESTIONS[style, language].replace("{call}", call) + _ALWAYS[language], style, language)
