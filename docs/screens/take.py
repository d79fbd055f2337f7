"""Take the screenshots of the app in this folder: a small training, pictures and a comparison on the pocket model.

    .venv/bin/python docs/screens/take.py [--home FOLDER] [--steps N] [--only NAME…]

Runs are done once in the home folder (a new temporary one by default) and shown again the next time, so that pictures
of the page can be taken anew after a change of the page. Needs Chromium, as the browser tests do, and a font with
Chinese letters.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path.insert(0, str(PROJECT))
NAME = "sticker style"
LAYOUT = "centered, white background"
PROMPTS = tuple(f"{thing}, {LAYOUT}" for thing in ("flat emoji, red apple", "3d emoji, cat", "classic emoji, pizza"))
# What is waited for on a tab.
SHOWN = {
    "generate": "#gallery img",
    "dataset": "#dataset-summary",
    "train": "#loss svg",
    "compare": "#compare-grid img",
    "cache": "#cache-found",
    "settings": "#models table",
}
KINDS = ("train", "generate", "compare")
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{tab: (tab, {}) for tab in SHOWN},
    "dark": ("generate", {"color_scheme": "dark"}),
    "chinese": ("train", {"locale": "zh-CN"}),
    "phone": ("generate", {"viewport": {"width": 390, "height": 844}}),
}
PLACE = "/home/me/zit"  # stands on the pictures for the folder of whoever takes them
PORT = 9270
# Elements whose text names a folder show PLACE instead.
MASK = """([home, place]) => {
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) walk.currentNode.nodeValue = walk.currentNode.nodeValue.replaceAll(home, place);
}"""


def main() -> None:
    """Prepare the home, then open the app and look at it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "zit_screens")
    parser.add_argument("--steps", type=int, default=300, help="steps of the training; the demo has 300")
    parser.add_argument("--only", nargs="*", default=list(PICTURES), choices=PICTURES, help="pictures to take")
    given = parser.parse_args()
    os.environ["ZIT_HOME"] = str(given.home)
    prepare(given.steps)
    with app(given.home) as address:
        take(address, given.home, given.only)


def prepare(steps: int) -> None:
    """One dataset, one training, pictures and a comparison in the home folder, as far as they are not there yet."""
    from dataclasses import replace

    from zit_app.core import paths
    from zit_app.core.compare_settings import CompareSettings, Variant
    from zit_app.core.generate_settings import GenerateSettings, LoraUse
    from zit_app.core.train_settings import load_train_settings
    from zit_app.service import datasets, runs, worker

    done = {kind: [run for run in runs.list_runs(kind) if run.state == "done"] for kind in KINDS}
    dataset = paths.home() / "datasets" / "demo"
    if not dataset.is_dir():
        datasets.import_files("demo", [paths.assets() / "demo" / "pictures"])
    if not done["train"]:
        settings = load_train_settings(paths.assets() / "demo" / "train.toml")
        length = replace(settings.training, max_steps=steps, sample_every=max(1, steps // 3), save_every=steps)
        asked = tuple(f"flat emoji, {thing}, {LAYOUT}" for thing in ("red apple", "smiling face with sunglasses"))
        settings = replace(settings, training=replace(length, sample_prompts=asked))
        runs.submit_train(settings, dataset, "pocket", NAME, "quick")
    for number, prompt in enumerate(PROMPTS[len(done["generate"]) :]):
        runs.submit_generate(GenerateSettings(prompts=(prompt,), count=4, seed=10 * number), "pocket")
    wait()
    if not done["compare"]:
        lora = runs.list_runs("train")[0].adapter
        variants = (Variant("without"), Variant("with LoRA", loras=(LoraUse(str(lora)),)))
        runs.submit_compare(CompareSettings("pocket", PROMPTS[:2], tuple(range(4)), variants))
        wait()
    worker.end_worker()


def wait() -> None:
    """Until no run waits or works. Raises when one has failed."""
    from zit_app.service import runs, worker

    while any(run.can_stop or run.state == "stopping" for run in runs.list_runs()):
        worker.tend()
        time.sleep(2)
    failed = [f"{run.name}: {run.cause}" for run in runs.list_runs() if run.state in ("failed", "interrupted")]
    if failed:
        raise SystemExit("\n".join(failed))


@contextmanager
def app(home: Path) -> Iterator[str]:
    """The app in a process of its own; gives its address."""
    command = [sys.executable, "app.py", "app", "--no-browser", "--port", str(PORT)]
    process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "ZIT_HOME": str(home)})
    address = f"http://127.0.0.1:{PORT}/"
    try:
        while True:
            with suppress(OSError):
                urllib.request.urlopen(address, timeout=10).close()
                break
            time.sleep(0.5)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def take(address: str, home: Path, names: Sequence[str]) -> None:
    """The pictures of `PICTURES` that are named."""
    from playwright.sync_api import sync_playwright

    from zit_app.service.browser import MISSING, find_browser

    found = find_browser()
    if found is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(found), args=["--no-sandbox", "--disable-gpu"])
        for name in names:
            tab, window = PICTURES[name]
            shoot(browser, address, home, tab, name, **window)
        browser.close()


def shoot(browser: Any, address: str, home: Path, tab: str, name: str, **window: Any) -> None:
    """One picture of one tab, `NAME.webp`."""
    from PIL import Image

    from zit_app.ui.text import TABLES

    settings: dict[str, Any] = {"viewport": {"width": 1360, "height": 900}, "locale": "en-US", **window}
    context = browser.new_context(**settings)
    context.set_default_timeout(300_000)
    page = context.new_page()
    page.goto(address)
    page.locator("#machine .meter").first.wait_for(state="attached")
    title = TABLES["zh" if "zh" in settings["locale"] else "en"][f"tab.{tab}"]
    if tab != "generate":
        page.get_by_role("tab", name=title, exact=True).first.click()
    page.locator(SHOWN[tab]).first.wait_for()
    page.wait_for_timeout(5000)  # pictures, curves and estimates
    page.evaluate(MASK, [str(home), PLACE])
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "page.png"
        width, height = settings["viewport"]["width"], page.evaluate("document.documentElement.scrollHeight")
        if width > 400:  # all of the page, with a sidebar as high as that
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(500)
        page.screenshot(path=str(png))
        Image.open(png).convert("RGB").save(HERE / f"{name}.webp", quality=82, method=6)
    context.close()


if __name__ == "__main__":
    main()
