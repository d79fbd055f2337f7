"""A home folder with something to look at on every tab: pictures, a LoRA, a training, a comparison. No model draws."""

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from zit_app.core.compare_settings import CompareSettings, Variant, compare_toml
from zit_app.core.files import write_json
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, TrainSettings, job_toml
from zit_app.data.recipe import Recipe, save_png

TRIGGER = "zxc"
SEEDS = (3, 4)
COLOURS = ("#c0392b", "#2980b9", "#27ae60", "#f39c12")


def recipe(seed: int, prompt: str = "a red apple", model: str = "tiny") -> Recipe:
    sigmas = (1.0, 0.9, 0.75, 0.5)  # those of four steps at shift 3
    return Recipe(prompt, "", seed, 4, 0.0, sigmas, 64, 64, "fp32", 512, model, "abc", ())


def fill(home: Path) -> None:
    """Write it all."""
    shelf = home / "runs"
    pictures = Run.create("generate", "a red apple", "", shelf / "generate" / "20260101-000000_apple")
    for number, colour in enumerate(COLOURS):
        save_png(pictures.folder / f"{number:04d}_{number}.png", Image.new("RGB", (64, 64), colour), recipe(number))
    pictures.write_status("done", step=4, total=4)
    lora = {"diffusion_model.layers.0.attention.to_q.lora_A.weight": torch.zeros(4, 8)}
    notes = {"modelspec.trigger_phrase": TRIGGER, "ss_network_dim": "4", "ss_sd_model_name": "tiny"}
    (home / "loras").mkdir(parents=True, exist_ok=True)
    save_file(lora, home / "loras" / "ink.safetensors", metadata=notes)

    dataset = home / "datasets" / "fruit"
    for number, colour in enumerate(COLOURS):
        dataset.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 64), colour).save(dataset / f"{number}.png")
        (dataset / f"{number}.txt").write_text("a fruit")
    job = TrainJob("tiny", str(dataset), "style")
    training = Run.create("train", "fruit", job_toml(TrainSettings(), job), shelf / "train" / "20260101-000001_fruit")
    for step in range(1, 41):
        training.append_metrics(step=step, loss=1 / step, lr=1e-4, seconds=0.1)
    save_file(lora, training.folder / "adapter.safetensors", metadata=notes)
    training.write_status("done", step=40, total=40, loss=0.025)

    variants = (Variant("without"), Variant("with LoRA"))
    settings = CompareSettings("tiny", ("a red apple", "a green pear"), SEEDS, variants)
    comparison = Run.create(
        "compare", "a red apple", compare_toml(settings), shelf / "compare" / "20260101-000002_apple"
    )
    for which, variant in enumerate(variants):
        for prompt in range(2):
            for place, seed in enumerate(SEEDS):
                cell = comparison.folder / "cells" / variant.name / f"{prompt:02d}_{seed}.png"
                cell.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), COLOURS[(which + prompt + place) % 4]).save(cell)
    figures = {"without": {"distance": 0.2, "deviation": 0.1}, "with LoRA": {"distance": 0.1, "deviation": 0.05}}
    write_json(comparison.folder / "report.json", {"variants": figures})
    comparison.write_status("done", step=8, total=8)
