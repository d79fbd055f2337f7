"""Ask a CLIP or SigLIP of the user's about a dataset: does each caption fit its picture, and how good does it look?

What counts as agreement differs from model to model, so the set is its own measure: a caption that fits its picture
less well than half of the other captions do is most likely of another picture.

N pictures, C captions, D width of the features.
"""

import re
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.data.formats import open_picture, to_rgb
from zit_app.data.health.opinions import Opinion, save_opinions
from zit_app.data.index import load_known, save_known
from zit_app.data.pictures import scan_dataset
from zit_app.model.clip import BATCH, Clip
from zit_app.model.loading import default_device

FEWEST = 4  # different captions in a set that can tell one from the others
COMPARED = 1000  # captions that each picture is compared with
Head = list[tuple[torch.Tensor, torch.Tensor | None]]  # weight (out, in) and bias (out,) of linear layers, in order


def form_opinions(dataset: Path, clip: Path, head: Path | None, progress: Progress) -> dict[str, Opinion]:
    """Opinions of every readable picture by SHA-256, which are also saved for the grid.

    Raises ZitError for folders and files that are none of what they should be.
    """
    scan = scan_dataset(dataset, load_known(dataset))
    save_known(scan)
    progress.stage("Loading the CLIP")
    eyes = Clip(clip, default_device())
    layers = load_head(head, eyes.prompts([""]).shape[1]) if head else None  # refused before an hour of looking
    items = list({item.sha256: item for item in scan.items}.values())
    progress.stage(f"Looking at {len(items)} pictures")
    seen = []
    for start in range(0, len(items), BATCH):
        seen.append(eyes.pictures([item.path for item in items[start : start + BATCH]], _read))
        progress.step(min(start + BATCH, len(items)), len(items))
    seen_ND = torch.cat(seen)
    rated = rate(layers, seen_ND) if layers else [None] * len(items)
    captions = [item.caption or "" for item in items]
    told = {caption: number for number, caption in enumerate(dict.fromkeys(filter(None, captions)))}
    agreement: list[float | None] = [None] * len(items)
    outdone = agreement
    if told:
        fits_NC = seen_ND @ eyes.prompts(list(told)).T
        own_N = torch.tensor([told.get(caption, -1) for caption in captions])
        agreement, outdone = compare(fits_NC, own_N)
    opinions = {
        item.sha256: Opinion(item.sha256, caption, *found)
        for item, caption, *found in zip(items, captions, agreement, outdone, rated, strict=True)
    }
    save_opinions(dataset, opinions)
    return opinions


def compare(fits_NC: torch.Tensor, own_N: torch.Tensor) -> tuple[list[float | None], list[float | None]]:
    """Each picture's agreement with its own caption, and the share of other captions that agree better.

    own_N  number of the picture's caption, -1 for none
    """
    chosen = torch.randperm(fits_NC.shape[1], generator=torch.Generator().manual_seed(0))[:COMPARED]
    agreement: list[float | None] = []
    outdone: list[float | None] = []
    for fits_C, own in zip(fits_NC, own_N.tolist(), strict=True):
        others = fits_C[chosen[chosen != own]]
        agreement.append(round(float(fits_C[own]), 4) if own >= 0 else None)
        known = own >= 0 and len(others) >= FEWEST - 1
        outdone.append(round(float((others > fits_C[own]).float().mean()), 4) if known else None)
    return agreement, outdone


def _read(file: Path) -> Image.Image:
    with open_picture(file) as image:
        return to_rgb(image)


def load_head(file: Path, width: int) -> Head:
    """An aesthetic predictor: linear layers from the features of a CLIP (`width`) to one number, as LAION's are.

    Raises ZitError for a file of another kind or for another CLIP.
    """
    remedy = "Give a safetensors file of linear layers made for this CLIP, such as LAION's aesthetic predictor."
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ZitError(f"{file} is no safetensors file.", remedy) from error
    names = [name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.ndim == 2]
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    head: Head = [(tensors[f"{name}.weight"].float(), tensors.get(f"{name}.bias")) for name in names]
    shapes = [width, *(int(weight.shape[0]) for weight, _ in head)]
    if not head or shapes[:-1] != [int(weight.shape[1]) for weight, _ in head] or shapes[-1] != 1:
        raise ZitError(f"{file} does not lead from {width} features to one number.", remedy)
    return head


def rate(head: Head, seen_ND: torch.Tensor) -> list[float | None]:
    """What the layers say of each picture."""
    x_ND = seen_ND
    for weight, bias in head:
        x_ND = torch.nn.functional.linear(x_ND, weight, bias.float() if bias is not None else None)
    return [round(float(each), 3) for each in x_ND[:, 0]]
