"""The tabs Dataset and Cache as a person uses them: drop, look, write, change many captions, take it back."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from tests.browsing import LONG, App, Visit, expect
from zit_app.ui.text import TABLES

EN = TABLES["en"]


def pictures(folder: Path) -> list[Path]:
    """A sharp picture with its caption, a blurred one without, a copy, and a torn file."""
    sharp = Image.effect_noise((160, 120), 90).resize((320, 240), Image.Resampling.NEAREST).convert("RGB")
    sharp.save(folder / "sharp.png")
    (folder / "sharp.txt").write_text("a cat on a chair")
    sharp.filter(ImageFilter.GaussianBlur(6)).save(folder / "soft.png")
    sharp.resize((240, 180)).save(folder / "copy.jpg", quality=95)
    (folder / "torn.png").write_bytes((folder / "sharp.png").read_bytes()[:2000])
    return sorted(folder.iterdir())


def wait_for(visit: Visit, path: Path, text: str) -> None:
    """Wait until a caption file says this."""
    for _ in range(LONG // 200):
        if path.is_file() and path.read_text(encoding="utf-8").strip() == text:
            return
        visit.page.wait_for_timeout(200)
    raise AssertionError(path.read_text() if path.is_file() else f"{path} was not written")


def test_drop_look_write_change_and_take_back(app: App, browser: Any, tmp_path: Path) -> None:
    visit = Visit(browser, app.address)
    visit.open("dataset")
    visit.page.locator("#dataset-new input, #dataset-new textarea").first.fill("mine")
    visit.page.locator("#dataset-drop input[type=file]").set_input_files(pictures(tmp_path))
    visit.shows("#dataset-summary", EN["flag.blurry"])
    visit.shows("#dataset-summary", "torn.png")
    folder = app.home / "datasets" / "mine"
    grid = visit.page.locator("#dataset-pictures button.thumbnail-item")
    expect(grid).to_have_count(3)
    expect(grid.nth(2)).to_contain_text(EN["flag.blurry"])  # examined: the grid is not drawn anew under the click

    grid.nth(2).click()
    visit.shows("#editor-title", EN["advice.blurry"])
    visit.page.locator("#caption textarea").fill("a soft cat")
    wait_for(visit, folder / "soft.txt", "a soft cat")
    visit.page.locator("#caption-next").click()
    visit.shows("#editor-title", "copy.jpg")
    visit.page.locator("#caption textarea").fill("a copied cat")
    visit.page.locator("#caption-next").click()
    visit.shows("#editor-title", "sharp.png")
    expect(visit.page.locator("#caption textarea")).to_have_value("a cat on a chair")
    wait_for(visit, folder / "copy.txt", "a copied cat")

    visit.page.locator("#dataset-views").get_by_role("tab").nth(1).click()
    visit.page.locator("#bulk-text input, #bulk-text textarea").first.fill("cat")
    visit.page.locator("#bulk-to input, #bulk-to textarea").first.fill("fox")
    visit.page.locator("#bulk-preview").click()
    visit.shows("#bulk-seen", "a fox on a chair")
    assert (folder / "sharp.txt").read_text().strip() == "a cat on a chair"
    visit.page.locator("#bulk-apply").click()
    wait_for(visit, folder / "sharp.txt", "a fox on a chair")
    visit.shows("#caption-table", "a soft fox")
    visit.page.locator("#bulk-undo").click()
    wait_for(visit, folder / "sharp.txt", "a cat on a chair")

    visit.open("cache")
    visit.shows("#cache-found", EN["stale.new"])
    visit.close()
