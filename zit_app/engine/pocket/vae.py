"""Training the pocket autoencoder: AutoencoderKL, 8x down, 16 channels, on 64-pixel crops.

Loss = L1 + edge L1 + small KL (Kingma & Welling 2014). In a share of the steps the latents are shrunk and must
decode to the shrunk picture (EQ-VAE, arXiv 2502.09509), which makes the latent space easier for the transformer.

Shapes: B batch, C channels, H W pixels.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file

from zit_app.engine.pocket.states import load_state, save_state
from zit_app.model.device import in_half

CROP = 64
BATCH = 16
STEPS = 5300  # the shipped weights took as many, in two parts: see the recipe of the model card
PEAK_RATE = 1.2e-3
KL_WEIGHT = 1e-4
EQUIVARIANT_SHARE = 0.2


def new_vae() -> AutoencoderKL:
    """3.1 M parameters; ``mid_block_add_attention`` is off: attention at 16 x 16 buys nothing here."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(24, 48, 96, 128),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def edges(x_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of neighbouring pixels in both directions."""
    return x_BCHW[..., 1:] - x_BCHW[..., :-1], x_BCHW[..., 1:, :] - x_BCHW[..., :-1, :]


def reconstruction_loss(y_BCHW: torch.Tensor, x_BCHW: torch.Tensor) -> torch.Tensor:
    """L1 of pixels plus half the L1 of both edge pictures."""
    sides = zip(edges(y_BCHW), edges(x_BCHW), strict=True)
    return F.l1_loss(y_BCHW, x_BCHW) + 0.5 * sum(F.l1_loss(a, b) for a, b in sides)


def random_crops(pictures: np.ndarray, centers: np.ndarray, canonical: int, generator: torch.Generator) -> torch.Tensor:
    """(BATCH, 3, CROP, CROP) in -1..1 from a uint8 stack of whole pictures.

    Half of the crops come from canonical pictures; the others are cut around the thing of a composed picture, because
    most 64-pixel windows of those show nothing but background.
    """
    side = pictures.shape[1]
    index = torch.randint(canonical, len(pictures), (BATCH,), generator=generator)
    index[::2] = torch.randint(canonical, (len(index[::2]),), generator=generator)
    corner = (
        torch.from_numpy(centers[index.numpy()]) - CROP // 2 + torch.randint(-28, 29, (BATCH, 2), generator=generator)
    )
    corner = corner.clamp(0, side - CROP)
    crops = [pictures[i, y : y + CROP, x : x + CROP] for i, (x, y) in zip(index.tolist(), corner.tolist(), strict=True)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def vae_step(vae: AutoencoderKL, x_BCHW: torch.Tensor, equivariant: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward: (loss, plain reconstruction loss). ``equivariant`` halves latents and target before decoding."""
    device = x_BCHW.device.type
    with in_half(device):
        posterior = vae.encode(x_BCHW).latent_dist
        z = posterior.sample()
        target = x_BCHW
        if equivariant:
            z = F.interpolate(z.float(), scale_factor=0.5, mode="bilinear", antialias=True)
            target = F.interpolate(x_BCHW, scale_factor=0.5, mode="bilinear", antialias=True)
        y = vae.decode(z).sample.float()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    loss = reconstruction_loss(y, target)
    return loss + KL_WEIGHT * kl, loss.detach()


def train_vae(work: Path, device: str, steps: int = STEPS) -> Path:
    """Train (or go on training) the autoencoder; the state is kept every 300 steps. Returns the weights file."""
    done = work / "vae.safetensors"
    if done.exists():
        return done
    torch.manual_seed(1)
    pictures = np.load(work / "bank" / "pictures.npy", mmap_mode="r")
    records = json.loads((work / "bank" / "records.json").read_text())
    centers, canonical = np.array([r["center"] for r in records]), sum(r["canonical"] for r in records)
    vae = new_vae()
    vae.to(device)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    start, state = 0, work / "vae_state.safetensors"
    if state.exists():
        start = load_state(state, {"vae": vae}, {"adam": optimizer})["step"]
    clock = time.monotonic()
    for step in range(start, steps):
        rate = PEAK_RATE * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(step)
        x = random_crops(pictures, centers, canonical, generator).to(device)
        equivariant = torch.rand((), generator=generator).item() < EQUIVARIANT_SHARE
        loss, plain = vae_step(vae, x, equivariant)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"vae {step}/{steps} loss {plain.item():.4f} {time.monotonic() - clock:.0f}s", flush=True)
        if (step + 1) % 300 == 0:
            save_state(state, {"vae": vae}, {"adam": optimizer}, {"step": step + 1})
    save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, done)
    return done


@torch.no_grad()
def encode_bank(work: Path, device: str) -> Path:
    """Latent means of every bank picture, normalised to mean 0 and deviation 1 over the bank, as float16.

    Writes ``latents.npy`` (N, 16, 16, 16) and ``vae.json`` with the shift and scale of facts.md's formula
    ``z_model = (z - shift) * scale``.
    """
    target = work / "latents.npy"
    if target.exists():
        return target
    vae = new_vae().eval()
    vae.to(device)  # type: ignore[arg-type]
    vae.load_state_dict(load_file(work / "vae.safetensors"))
    pictures = np.load(work / "bank" / "pictures.npy", mmap_mode="r")
    out = np.empty((len(pictures), 16, 16, 16), np.float32)
    for i in range(0, len(pictures), 64):
        x = torch.from_numpy(np.array(pictures[i : i + 64])).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        with in_half(device):
            out[i : i + 64] = vae.encode(x).latent_dist.mean.float().cpu().numpy()
    shift, scale = float(out.mean()), 1 / float(out.std())
    (work / "vae.json").write_text(json.dumps({"shift_factor": shift, "scaling_factor": scale}))
    np.save(target, ((out - shift) * scale).astype(np.float16))
    return target
