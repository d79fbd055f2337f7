"""Caption all, as a person uses it: drop, press, see the captions in the grid, take them back."""

from pathlib import Path
from typing import Any

from PIL import Image

from tests.browsing import App, Visit, expect
from tests.captioning_service import captioning_service
from tests.test_app_dataset import wait_for
from zit_app.core.captioners import KNOWN, recommended
from zit_app.ui.text import TABLES

EN = TABLES["en"]


def test_drop_caption_all_see_and_take_back(app: App, browser: Any, tmp_path: Path) -> None:
    for name, colour in (("one", "red"), ("two", "blue"), ("three", "green")):
        Image.new("RGB", (120, 90), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "two.txt").write_text("by hand")
    visit = Visit(browser, app.address)
    visit.open("dataset")
    visit.page.locator("#dataset-new input, #dataset-new textarea").first.fill("mine")
    dropped = sorted(tmp_path.glob("*.png")) + [tmp_path / "two.txt"]
    visit.page.locator("#dataset-drop input[type=file]").set_input_files(dropped)
    grid = visit.page.locator("#dataset-pictures button.thumbnail-item")
    expect(grid).to_have_count(3)
    folder = app.home / "datasets" / "mine"

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
