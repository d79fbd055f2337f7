"""The demo: teach the pocket model the art of 24 stickers, then draw twelve other things before and after."""

import shutil
from pathlib import Path

from PIL import Image, ImageDraw

from zit_app.core import paths
from zit_app.core.files import replacing
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.core.train_settings import TrainJob, TrainSettings, job_toml, load_train_settings
from zit_app.engine.generate import generate
from zit_app.engine.train import train

SEED = 7
GAP, LABEL = 4, 16  # pixels


def demo_settings(*changes: str) -> TrainSettings:
    """Those of `demo.toml` with `table.key=value` changes; the prompts that hold the other styles lie beside it."""
    source = paths.assets() / "demo"
    held = f'training.unrelated_prompts="{(source / "unrelated.txt").as_posix()}"'
    return load_train_settings(source / "demo.toml", [held, *changes])


def run_demo(as_json: bool = False) -> dict[str, Path]:
    """Train and draw; returns the run folder's ``adapter`` and ``picture``. Four to five minutes on two CPU cores."""
    source = paths.assets() / "demo"
    dataset = paths.home() / "datasets" / "demo"
    shutil.copytree(source / "pictures", dataset, dirs_exist_ok=True)
    settings = demo_settings()
    run = Run.create("train", "demo", job_toml(settings, TrainJob("pocket", str(dataset), "demo")))
    adapter = train(settings, dataset, "pocket", run, Progress(run, as_json))
    if adapter is None:
        return {"run": run.folder}
    prompts = tuple((source / "prompts.txt").read_text(encoding="utf-8").splitlines())
    rows: dict[str, list[Image.Image]] = {}
    for name, loras in (("before", ()), ("after", (LoraUse(str(adapter)),))):
        drawn = generate(GenerateSettings(prompts=prompts, seed=SEED, loras=loras), "pocket", run.folder / name)
        rows[name] = [Image.open(path) for path in drawn]
    picture = run.folder / "before_after.png"
    with replacing(picture) as temporary:
        before_after(rows).save(temporary, "PNG")
    return {"run": run.folder, "adapter": adapter, "picture": picture}


def before_after(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """The rows below each other in blocks of six columns, each with its name."""
    columns = 6
    side = next(iter(rows.values()))[0].width
    blocks = -(-len(next(iter(rows.values()))) // columns)
    width = columns * (side + GAP) + GAP
    sheet = Image.new("RGB", (width, blocks * len(rows) * (side + LABEL + GAP)), "white")
    pen = ImageDraw.Draw(sheet)
    for block in range(blocks):
        for row, (name, pictures) in enumerate(rows.items()):
            top = (block * len(rows) + row) * (side + LABEL + GAP)
            pen.text((GAP, top + 2), name, fill="black")
            for i, picture in enumerate(pictures[block * columns : (block + 1) * columns]):
                sheet.paste(picture, (GAP + i * (side + GAP), top + LABEL))
    return sheet
