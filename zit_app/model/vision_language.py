"""Vision-language models of transformers that describe pictures: Qwen-VL, Florence-2, LLaVA (JoyCaption) and kin.

Without torchvision, which breaks transformers when it does not fit torch, and without code that comes with weights.
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from zit_app.core.captioners import POCKET, Question, Stopped, folder_of, languages_of
from zit_app.core.errors import ZitError
from zit_app.core.files import read_json
from zit_app.core.models import weight_files
from zit_app.model.loading import default_device, default_dtype

_TASKS = {"free": "<MORE_DETAILED_CAPTION>"}  # of Florence-2; all others leave the kind of picture out
_TASK_OF_CONTENT = "<DETAILED_CAPTION>"
_POCKET_CHINESE = "详细描述这张图片。"  # the pocket captioner's own, beside Florence's tasks
_ROOM = 768 << 20  # bytes of a card for one picture: its tokens in all layers, and the vision tower at work
_MOST, _SMALL = 8, 1 << 30  # pictures together; bytes of weights up to which a processor takes four
_SUPPORTED = "Choose a Qwen3-VL, a Florence-2 of florence-community, or a LLaVA such as JoyCaption."


class VisionLanguage:
    """A captioner loaded from a folder. `describe` asks `tick` after every token whether to stop.

    Raises ZitError for weights that are no whole safetensors, and for models that need torchvision or own code.
    """

    def __init__(self, folder: Path, max_tokens: int, tick: Callable[[], bool]) -> None:
        self.max_tokens, self._tick = max_tokens, tick
        self.config = read_json(folder / "config.json")
        self.kind = str(self.config["model_type"])
        self.languages, self.pocket = languages_of(folder, self.kind), folder == folder_of(POCKET)
        files = weight_files(folder)
        self.device = default_device()
        dtype = default_dtype(self.device)
        transformers_logging.disable_progress_bar()
        self.processor = load_processor(folder, self.kind)
        try:
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        except (ValueError, ImportError, KeyError, AttributeError) as error:
            raise _unsupported(folder, error) from error
        torch.nn.Module.to(model, self.device)  # transformers' own wrapper of .to is typed without self
        self.model = model.eval().requires_grad_(False)
        if self.model.config.is_encoder_decoder:  # its positions end there
            self.max_tokens = min(max_tokens, self.model.config.text_config.max_position_embeddings - 2)
        self._weights = sum(file.stat().st_size for file in files)

    @property
    def together(self) -> int:
        """Pictures that are described at once as fast as one: by the free memory of the card."""
        if self.device.type == "cuda":
            return max(1, min(_MOST, torch.cuda.mem_get_info(self.device)[0] // _ROOM))
        return 4 if self._weights < _SMALL else 1

    @torch.no_grad()
    def describe(self, pictures: Sequence[Image.Image], question: Question) -> list[str]:
        """One answer a picture, as it came. Raises Stopped when asked to, ZitError for a language it does not speak."""
        tasks = self.kind == "florence2"
        text = self._task(question) if tasks else self._conversation(question.text)
        # The chat template has written the beginning of a text already; Florence's processor takes care of it itself.
        begun = getattr(self.processor.tokenizer, "bos_token", None)
        more: dict[str, Any] = {} if tasks else {"padding": True, "padding_side": "left"}
        if begun and text.startswith(begun):
            more["add_special_tokens"] = False
        count = len(pictures)
        inputs = self.processor(text=[text] * count, images=list(pictures), return_tensors="pt", **more)
        inputs = inputs.to(self.device, self.model.dtype)
        penalty = {} if tasks else {"repetition_penalty": 1.05, "temperature": None, "top_p": None, "top_k": None}
        stop = _Stop(self._tick)
        tokens_BL = self.model.generate(
            **inputs, max_new_tokens=self.max_tokens, do_sample=False, stopping_criteria=[stop], **penalty
        )
        if stop.asked:
            raise Stopped
        if not self.model.config.is_encoder_decoder:
            tokens_BL = tokens_BL[:, inputs["input_ids"].shape[1] :]
        return [str(answer).strip() for answer in self.processor.batch_decode(tokens_BL, skip_special_tokens=True)]

    def close(self) -> None:
        """Give the memory back."""
        del self.model, self.processor
        gc.collect()
        torch.cuda.empty_cache()

    def _task(self, question: Question) -> str:
        if question.language not in self.languages:
            raise ZitError("Florence-2 describes in English only.", "Choose English, or another captioner.")
        if self.pocket and question.language == "zh":
            return _POCKET_CHINESE
        return _TASKS.get(question.style, _TASK_OF_CONTENT)

    def _conversation(self, text: str) -> str:
        """The question in the model's chat template, with the picture's token in it exactly once.

        Templates take a message as parts, or (JoyCaption) as plain text into which they put the picture themselves.
        """
        sign = self.processor.image_token
        parts = [{"type": "image"}, {"type": "text", "text": text}]
        for content in (parts, text, f"{sign}\n{text}"):
            message = [{"role": "user", "content": content}]
            made = str(self.processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True))
            if made.count(sign) == 1 and text in made and "'type'" not in made:
                return made
        raise ZitError("The captioner's chat template has no place for a picture.", _SUPPORTED)


class _Stop(transformers.StoppingCriteria):
    """Ends all answers as soon as the owner of the run asks for it."""

    def __init__(self, tick: Callable[[], bool]) -> None:
        self._tick, self.asked = tick, False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **more: Any) -> torch.Tensor:
        self.asked = self._tick()
        return torch.full((len(input_ids),), self.asked, dtype=torch.bool, device=input_ids.device)


def load_processor(folder: Path, kind: str) -> Any:
    """The processor of a model folder, without torchvision.

    `AutoProcessor` insists on a processor of videos, which needs it, for models that also watch those (Qwen-VL,
    InternVL, SmolVLM, Gemma 4); then the same class is built around its tokenizer and picture processor alone.
    """
    try:
        return AutoProcessor.from_pretrained(folder)
    except (ImportError, OSError, ValueError, AttributeError) as error:
        name = PROCESSOR_MAPPING_NAMES.get(kind)
        if name is None:
            raise _unsupported(folder, error) from error
    try:
        return _pictures_only(getattr(transformers, name)).from_pretrained(folder)
    except (ImportError, OSError, ValueError, AttributeError, TypeError) as error:
        raise _unsupported(folder, error) from error


class _NoVideo(dict[str, Any]):
    """Stands where a processor of videos would; only the numbers are looked at that some processors copy from it."""

    num_frames = fps = 1
    merge_size = temporal_patch_size = 2
    patch_size, max_soft_tokens, pooling_kernel_size = 14, 70, 3


def _pictures_only(base: Any) -> Any:
    """The processor class with `_NoVideo` for every part but tokenizer and pictures. Names as in transformers 5.23."""

    class PicturesOnly(base):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if isinstance(argument, _NoVideo):
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def _get_arguments_from_pretrained(cls, place: Any, processor_dict: Any = None, **more: Any) -> list[Any]:
            more.pop("subfolder", None)
            made: list[Any] = []
            for part in cls.get_attributes():
                if "tokenizer" in part:
                    made.append(AutoTokenizer.from_pretrained(place))
                elif part == "image_processor":
                    made.append(AutoImageProcessor.from_pretrained(place, **more))
                else:
                    made.append(_NoVideo())
            return made

    PicturesOnly.__name__ = base.__name__  # messages and saved files call it by its name
    return PicturesOnly


def _unsupported(folder: Path, error: Exception) -> ZitError:
    if "florence2_language" in str(error):
        return ZitError(
            f"{folder} is a Florence-2 in its first layout, which runs code of its own.",
            "Get the version of florence-community.",
        )
    return ZitError(f"{folder} cannot be loaded: {str(error).strip().splitlines()[0]}", _SUPPORTED)
