"""The owner's page in one language: a sidebar and six tabs."""

import gradio as gr

from zit_app.ui.advanced import SEARCH
from zit_app.ui.cache import CacheTab
from zit_app.ui.compare import CompareTab
from zit_app.ui.dataset import DatasetTab
from zit_app.ui.generate import GenerateTab
from zit_app.ui.keep import keep
from zit_app.ui.page import Page, asks
from zit_app.ui.settings import SettingsTab
from zit_app.ui.sidebar import Sidebar
from zit_app.ui.text import Words
from zit_app.ui.train import TrainTab

# On a phone the sidebar covers the page: it begins folded there.
FOLD = "() => { if (innerWidth < 769) document.querySelector('#sidebar.open .toggle-button')?.click(); }"
# Gradio builds what is folded when it is unfolded, and a frame later writes its values once more, over whatever was
# entered meanwhile. Unfolded for a frame while the page is built, it is ready before anybody can write into it.
PREPARE = """() => {
  const folds = [...document.querySelectorAll('.prepared button.label-wrap:not(.open)')];
  folds.forEach(one => one.click());
  const fold = () => folds.filter(one => one.matches('.open')).forEach(one => one.click());
  requestAnimationFrame(() => setTimeout(fold));
}"""
DELETE_UPLOADS = (3600, 86400)  # seconds: look every hour, remove copies of uploads older than a day


def build(language: str) -> gr.Blocks:
    """The whole page; what it shows is read from the disk when a browser opens it."""
    page = Page(Words(language))
    w = page.w
    with gr.Blocks(title="ZIT Studio", analytics_enabled=False, fill_width=True, delete_cache=DELETE_UPLOADS) as blocks:
        Sidebar(page)
        with gr.Tabs(elem_id="tabs") as page.tabs:
            with gr.Tab(w("tab.generate"), id="generate"):
                generate = GenerateTab(page)
            with gr.Tab(w("tab.dataset"), id="dataset"):
                dataset = DatasetTab(page)
            with gr.Tab(w("tab.train"), id="train"):
                train = TrainTab(page, generate)
            with gr.Tab(w("tab.compare"), id="compare"):
                compare = CompareTab(page)
            with gr.Tab(w("tab.cache"), id="cache"):
                cache = CacheTab(page)
            with gr.Tab(w("tab.settings"), id="settings"):
                SettingsTab(page, blocks)
        generate.gallery.compare.click(
            asks(compare.take), [generate.gallery.chosen], compare.filled, api_visibility="private"
        ).success(lambda: gr.update(selected="compare"), outputs=[page.tabs], api_visibility="private")
        keep(blocks, "generate", generate.kept)
        keep(blocks, "captioning", dataset.captioning.kept)
        keep(blocks, "train", [train.trigger, train.prompts])
        train.training.compare.click(
            asks(train.training.to_compare),
            [train.training.run],
            [page.tabs, compare.prompts, compare.model, compare.variants[2], compare.variants[7]],
            api_visibility="private",
        )
        dataset.name.change(
            lambda folder: [folder, folder],
            [dataset.name],
            [train.dataset, cache.dataset],
            show_progress="hidden",
            api_visibility="private",
        )
        blocks.load(None, js=FOLD, api_visibility="private")
        blocks.load(None, js=PREPARE, api_visibility="private")
        blocks.load(None, js=SEARCH, api_visibility="private")
        page.connect(blocks)
    return blocks
