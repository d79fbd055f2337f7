"""What a CLIP of the user's says of captions and pictures, and what the reader of text finds in them."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from tests.tiny_clip import make_tiny_clip
from zit_app.cli import main
from zit_app.data.health.writing import load_written, unsaid
from zit_app.data.reading import PACKAGE
from zit_app.engine.opinions import compare
from zit_app.service.shelf import Shelf

COLOURS = {"red": (200, 30, 30), "blue": (30, 40, 210)}
SHAPES = ("house", "tree", "cat")  # a square, a triangle, a disc
CAPTIONS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]


def drawn(caption: str, seed: int) -> Image.Image:
    """The thing in its colour on a light ground, somewhere."""
    chance = random.Random(seed)
    _, colour, shape = caption.split()
    picture = Image.new("RGB", (64, 64), tuple(chance.randrange(200, 256) for _ in range(3)))
    x, y, side = chance.randrange(4, 16), chance.randrange(4, 16), chance.randrange(36, 44)
    pen = ImageDraw.Draw(picture)
    if shape == "house":
        pen.rectangle((x, y, x + side, y + side), COLOURS[colour])
    elif shape == "tree":
        pen.polygon([(x + side / 2, y), (x, y + side), (x + side, y + side)], COLOURS[colour])
    else:
        pen.ellipse((x, y, x + side, y + side), COLOURS[colour])
    return picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature CLIP, taught six captions: colours and shapes."""
    folder = make_tiny_clip(tmp_path_factory.mktemp("clip"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine several wait for each other longer than such small tensors take
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel.from_pretrained(folder)
        processor = AutoImageProcessor.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        words = tokenizer(CAPTIONS, padding="max_length", max_length=12, return_tensors="pt")
        words.pop("token_type_ids", None)
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
        truth = torch.arange(len(CAPTIONS))
        for step in range(150):
            pixels = processor([drawn(one, 100 * step + i) for i, one in enumerate(CAPTIONS)], return_tensors="pt")
            found = model(pixel_values=pixels.pixel_values, **words)
            loss = torch.nn.functional.cross_entropy(found.logits_per_image, truth)
            loss = loss + torch.nn.functional.cross_entropy(found.logits_per_text, truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The six pictures with their captions, but for two, whose captions are exchanged."""
    folder = tmp_path / "set"
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS):
        drawn(caption, -i - 1).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    (folder / "0.txt").write_text(CAPTIONS[5])
    (folder / "5.txt").write_text(CAPTIONS[0])
    return folder


def checked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    assert main(["check", *words, "--resolution", "64", "--json"]) == 0
    return {one["file"]: one for one in json.loads(capsys.readouterr().out.splitlines()[-1])["pictures"]}


def test_exchanged_captions_are_found_and_shown_in_the_grid(
    dataset: Path, clip: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = checked(capsys, str(dataset), "--clip", str(clip))
    wrong = {name for name, one in found.items() if "other_caption" in one["flags"]}
    assert wrong == {"0.png", "5.png"}
    assert min(found[f"{i}.png"]["agreement"] for i in (1, 2, 3, 4)) > found["0.png"]["agreement"]
    shelf = Shelf(dataset, 64)
    assert {one.name for one in shelf.look().items if "other_caption" in one.flags} == {"0.png", "5.png"}
    (dataset / "0.txt").write_text(CAPTIONS[0])
    later = checked(capsys, str(dataset))["0.png"]  # nobody was asked about the new caption
    assert "other_caption" not in later["flags"] and "agreement" not in later


def test_an_aesthetic_head_rates_what_the_clip_sees(
    dataset: Path, clip: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, width = tmp_path / "head.safetensors", 24
    layers = {"layers.0.weight": torch.randn(5, width), "layers.0.bias": torch.randn(5),
              "layers.10.weight": torch.zeros(1, 3), "layers.10.bias": torch.tensor([7.0]),
              "layers.2.weight": torch.randn(3, 5), "layers.2.bias": torch.randn(3)}  # fmt: skip
    save_file(layers, head)
    words = (str(dataset), "--clip", str(clip), "--aesthetic", str(head))
    liked = checked(capsys, *words)
    assert {one["aesthetic"] for one in liked.values()} == {7.0}
    assert not any("plain_looks" in one["flags"] for one in liked.values())
    save_file(layers | {"layers.10.bias": torch.tensor([2.0])}, head)
    assert all("plain_looks" in one["flags"] for one in checked(capsys, *words).values())
    save_file({"a.weight": torch.zeros(1, 768)}, head)
    assert main(["check", *words]) == 1 and "does not lead from 24" in capsys.readouterr().err
    head.write_bytes(b"no tensors")
    assert main(["check", *words]) == 1 and "no safetensors file" in capsys.readouterr().err
    assert main(["check", str(dataset), "--aesthetic", str(head)]) == 2


def test_a_caption_is_measured_by_the_others() -> None:
    fits_NC = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.5, 0.2, 0.1, 0.6], [0.1, 0.1, 0.1, 0.1]])
    assert compare(fits_NC, torch.tensor([0, 1, -1])) == ([0.9, 0.2, None], [0.0, 0.6667, None])
    assert compare(fits_NC[:, :3], torch.tensor([0, 1, 2]))[1] == [None, None, None]  # too few to tell


def test_a_watermark_is_read_unless_its_caption_quotes_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(PACKAGE)
    for i in range(4):
        picture = drawn(CAPTIONS[i], i).resize((512, 512))
        if i:
            ImageDraw.Draw(picture).text((180, 460), "Sample 2024", "white", ImageFont.load_default(28), stroke_width=2,
                                         stroke_fill="black")  # fmt: skip
        picture.save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(CAPTIONS[i] + (', "SAMPLE 2024" below it' if i == 3 else ""))
    found = checked(capsys, str(tmp_path))
    assert ["writing" in found[f"{i}.png"]["flags"] for i in range(4)] == [False, True, True, False]
    assert "sample2024" in "".join(found["1.png"]["writing"]).casefold().replace(" ", "")
    assert len(load_written(tmp_path)) == 4
    assert main(["check", str(tmp_path)]) == 0
    assert "stands in 3 pictures (sample2024): a watermark?" in capsys.readouterr().out
    assert {one.name for one in Shelf(tmp_path, 64).look().items if "writing" in one.flags} == {"1.png", "2.png"}


def test_what_is_quoted_is_not_unsaid() -> None:
    assert unsaid(["Open Late", "茶馆"], ['a sign "OPEN, LATE"']) == ["茶馆"]
