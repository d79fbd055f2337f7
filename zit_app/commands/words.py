"""What several commands share: exit codes, models and folders by name, files of prompts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from zit_app.core.errors import ZitError
from zit_app.core.flags import Parser, usage
from zit_app.core.generate_settings import LoraUse, parse_size
from zit_app.core.models import find_model, list_models
from zit_app.core.progress import Progress

FAILED, WRONG_USAGE, STOPPED = 1, 2, 130  # 130 is what a shell reports for Ctrl-C


def model_name(text: str) -> str:
    """A model's name as it is, a folder as an absolute path, so that a run finds it again; both exist."""
    folder = find_model(text)
    return text if text in {model.name for model in list_models()} else str(folder.absolute())


def found_loras(loras: Sequence[LoraUse], progress: Progress) -> tuple[LoraUse, ...]:
    """Adapters by absolute path, so that a run can go on from anywhere; missing ones of a hub are brought.

    Raises ZitError for unknown ones.
    """
    from zit_app.service.hub_adapters import adapter_file

    return tuple(dataclasses.replace(use, file=str(adapter_file(use.file, progress).absolute())) for use in loras)


def existing_folder(path: Path) -> Path:
    """The absolute path of a folder. Raises ZitError when there is none."""
    if not path.is_dir():
        raise ZitError(f"There is no folder {path}.", "Check the path.")
    return path.absolute()


def folder_of_pictures(path: Path) -> Path:
    """The absolute path of a dataset. Raises ZitError when there is no such folder or no picture in it."""
    from zit_app.data.pictures import check_pictures

    folder = existing_folder(path)
    check_pictures(folder)
    return folder


def prompt_lines(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ZitError(f"{path} cannot be read as text.", "Give a UTF-8 file, one prompt a line.") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ZitError(f"{path} holds no prompt.", "Write one prompt a line.")
    return prompts


def size_flag(parser: Parser) -> None:
    """`--size`, into ``size``: width and height, 0 for the model's own."""
    parser.add_argument(
        "--size",
        metavar="WxH",
        type=usage(parse_size),
        default=(0, 0),
        help="pixels, multiples of 16; default: the model's own",
    )


def model_flag(parser: Parser, required: bool) -> None:
    """`--model`."""
    known = "a name of zit models list, a diffusers folder, a .safetensors or .gguf file"
    parser.add_argument("--model", metavar="M", required=required, help=known)
