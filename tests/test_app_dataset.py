"""The tabs Dataset and Cache as a person uses them: drop, look, write or let write, change many captions, undo."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter

from tests.browsing import LONG, App, Visit, expect
from tests.captioning_service import captioning_service
from zit_app.core.captioners import KNOWN, recommended
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


def test_drop_caption_all_see_and_take_back(app: App, browser: Any, tmp_path: Path) -> None:
    for name, colour in (("one", "red"), ("two", "blue"), ("three", "green")):
        Image.new("RGB", (120, 90), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "two.txt").write_text("by hand")
    visit = Visit(browser, app.address)
    visit.open("dataset")
    visit.page.locator("#dataset-new input, #dataset-new textarea").first.fill("described")
    dropped = sorted(tmp_path.glob("*.png")) + [tmp_path / "two.txt"]
    visit.page.locator("#dataset-drop input[type=file]").set_input_files(dropped)
    grid = visit.page.locator("#dataset-pictures button.thumbnail-item")
    expect(grid).to_have_count(3)
    folder = app.home / "datasets" / "described"

    visit.page.locator("#captioner input").click()
    choices = visit.page.get_by_role("option")
    expect(choices.filter(has_text=EN["caption.best"])).to_contain_text(recommended(0))
    expect(choices).to_have_count(len(KNOWN) + 2 - (choices.filter(has_text="pocket").count() == 0))
    with captioning_service() as service:
        choices.filter(has_text=EN["service.ollama"]).click()
        visit.page.locator("#caption-endpoint input, #caption-endpoint textarea").first.fill("nowhere")
        visit.page.locator("#caption-all").click()
        visit.shows(".toast-wrap", "no address of a service")
        visit.page.locator("#caption-endpoint input, #caption-endpoint textarea").first.fill(service.url)
        visit.page.locator("#caption-all").click()
        visit.shows("#caption-status", "2 captions written, 0 were up to date, 1 of your own kept")
    visit.shows("#dataset-pictures", "Picture 2.")
    visit.shows("#dataset-pictures", "by hand")
    wait_for(visit, folder / "two.txt", "by hand")
    wait_for(visit, folder / "one.txt", "Picture 1.")
    visit.reload()  # the address stays in this browser
    visit.open("dataset")
    expect(visit.page.locator("#caption-endpoint input, #caption-endpoint textarea").first).to_have_value(service.url)
    visit.page.locator("#dataset-views").get_by_role("tab").nth(1).click()
    visit.page.locator("#bulk-undo").click()
    visit.shows("#bulk-seen", EN["bulk.undone"].format(n=2))
    assert not (folder / "one.txt").exists()
    visit.close()
