"""What pictures will be, seen while they are denoised: a small JPEG in the run folder, replaced as it goes.

Two samples on the path give the direction of the last step; carried on to sigma 0 it ends at the clean estimate
``x0_hat = x - sigma v``. A linear map of the latent channels gives its colours: at one pixel a latent a glance costs
some milliseconds where the decoder needs as long as several steps.

Shapes: B pictures, C latent channels, H W latent pixels.
"""

import math
import os
import time
from pathlib import Path

import torch
from PIL import Image

from zit_app.core.files import replacing
from zit_app.core.run import PREVIEW
from zit_app.model.latents import to_colours

SECONDS = 0.5  # between two previews at least
SHARE = 0.03  # of the time at most goes into them
ROOM = 1 << 16  # bytes: sizes are rounded up to it, which most previews need not fill


class StepPreview:
    """Previews of one batch. `start` is its noise (B, C, H, W), `sigmas` (N,) the nodes without the closing 0."""

    def __init__(self, folder: Path, colours: torch.Tensor, start: torch.Tensor, sigmas: torch.Tensor) -> None:
        self.file = folder / PREVIEW
        self.colours = colours
        self.before = start
        self.path = [*sigmas.tolist(), 0.0]
        self.due = time.perf_counter() + SECONDS

    def see(self, step: int, x_BCHW: torch.Tensor) -> None:
        """Look at x after `step` (from 0) and write what it is heading for, unless it is too early for that."""
        before, self.before = self.before, x_BCHW
        if time.perf_counter() < self.due or step + 1 == len(self.path) - 1:
            return
        if x_BCHW.is_cuda:
            torch.cuda.synchronize(x_BCHW.device)  # the step itself is not what the preview costs
        begun = time.perf_counter()
        sigma, after = self.path[step : step + 2]
        clean = x_BCHW + (x_BCHW - before.to(x_BCHW.device)) * (after / (sigma - after))
        self._write(to_colours(self.colours, clean))
        ended = time.perf_counter()
        self.due = ended + max(SECONDS, (ended - begun) / SHARE)

    def _write(self, pictures_BHW3: torch.Tensor) -> None:
        """One sheet of all pictures, as square as their number allows."""
        count, height, width, _ = pictures_BHW3.shape
        columns = math.ceil(math.sqrt(count))
        sheet = Image.new("RGB", (columns * width, math.ceil(count / columns) * height), "white")
        for i, picture in enumerate(pictures_BHW3):
            sheet.paste(Image.fromarray(picture.numpy()), (i % columns * width, i // columns * height))
        with replacing(self.file, durable=False) as temporary:
            sheet.save(temporary, quality=90)
            # A server that told the size of one preview and sends the next one breaks off when the sizes differ.
            os.truncate(temporary, math.ceil(temporary.stat().st_size / ROOM) * ROOM)
