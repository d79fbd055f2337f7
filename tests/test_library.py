"""What the app knows of files: datasets, pictures, adapters, models, the machine. No torch in any of it."""

import json
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from tests.test_cache import make_dataset
from zit_app.core.cache_settings import CacheSettings, cache_toml
from zit_app.core.errors import ZitError
from zit_app.core.files import sha256_of_known
from zit_app.core.generate_settings import GenerateSettings, LoraUse
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.parameters import parse_parameters
from zit_app.data.pictures import scan_dataset
from zit_app.data.recipe import LoraRecipe, Recipe, save_png
from zit_app.engine.cache import build_cache, cache_run
from zit_app.service import adapters, caches, datasets, edits, gallery, hardware, model_files
from zit_app.service.shelf import Shelf


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (640, 600)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def recipe(prompt: str, seed: int = 5, loras: tuple[LoraRecipe, ...] = ()) -> Recipe:
    return Recipe(prompt, "", seed, 8, 0.0, (1.0, 0.5), 64, 48, "fp32", 512, "pocket", "abc", loras)


# ---------------------------------------------------------------- datasets


def test_pictures_captions_folders_and_zips_come_in(home: Path, tmp_path: Path) -> None:
    loose = picture(tmp_path / "loose.png")
    folder = tmp_path / "folder"
    picture(folder / "deep" / "one.jpg", "blue")
    (folder / "deep" / "one.txt").write_text("blue thing")
    (folder / ".DS_Store").write_text("x")
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(picture(tmp_path / "z.png", "green"), "in/z.png")
        archive.writestr("in/z.txt", "green thing")
        archive.writestr("notes.pdf", "x")
        archive.writestr("__MACOSX/in/._z.png", "x")
    before = loose.read_bytes()
    done = datasets.import_files("My cats: 1", [loose, folder, packed])
    assert done.folder == home / "datasets" / "My cats- 1" and done.added == 3
    assert done.skipped == (("notes.pdf", "neither a picture nor a caption"),)
    items = scan_dataset(done.folder).items
    assert [(item.name, item.caption) for item in items] == [
        ("deep/one.jpg", "blue thing"),
        ("in/z.png", "green thing"),
        ("loose.png", None),
    ]
    assert loose.read_bytes() == before and datasets.list_datasets() == [done.folder]
    assert datasets.import_files("My cats: 1", [loose, folder, packed]).added == 0


def test_another_picture_of_the_same_name_keeps_its_caption(home: Path, tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        picture(tmp_path / name / "0.png", colour)
        (tmp_path / name / "0.txt").write_text(f"a {colour} thing")
    datasets.import_files("both", [tmp_path / "a"])
    done = datasets.import_files("both", [tmp_path / "b"])
    assert {item.name: item.caption for item in scan_dataset(done.folder).items} == {
        "0.png": "a red thing",
        "0-2.png": "a blue thing",
    }


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_a_zip_that_climbs_out_is_refused_as_a_whole(home: Path, tmp_path: Path, name: str) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(picture(tmp_path / "good.png"), "good.png")
        archive.writestr(name, "x")
    with pytest.raises(ZitError, match="outside the dataset"):
        datasets.import_files("set", [packed])
    assert not (home / "datasets").exists()


def test_what_is_no_dataset_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 half")
    (tmp_path / "a.txt").write_text("no picture")
    for files in ([tmp_path / "broken.zip"], [tmp_path / "a.txt"], [tmp_path / "missing.png"]):
        with pytest.raises(ZitError):
            datasets.import_files("set", files)
    with pytest.raises(ZitError, match="no name"):
        datasets.import_files(" .. ", [picture(tmp_path / "a.png")])
    assert not (home / "datasets").exists()


def test_a_zip_that_grows_beyond_reason_is_refused(home: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(picture(tmp_path / "good.png"), "good.png")
        with archive.open("zeros.bmp", "w", force_zip64=True) as entry:
            for _ in range(1100):
                entry.write(bytes(1 << 20))
    with pytest.raises(ZitError, match="zip bomb"):
        datasets.import_files("set", [packed])
    assert not (home / "datasets").exists()


def test_names_of_any_length_and_tables_come_along(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    long = picture(source / ("ü" * 120 + ".png"))
    long.with_suffix(".txt").write_text("long name")
    (source / "captions.jsonl").write_text('{"file_name": "b.png", "text": "from the table"}\n')
    picture(source / "b.png", "blue")
    done = datasets.import_files("set", [source])
    assert sorted(item.caption or "" for item in scan_dataset(done.folder).items) == ["from the table", "long name"]
    (source / "captions.jsonl").write_text('{"file_name": "b.png", "text": "another"}\n')
    assert datasets.import_files("set", [source]).skipped == (
        ("captions.jsonl", "the dataset has another one already"),
    )


def examined(shelf: Shelf) -> dict[str, tuple[str, ...]]:
    """Flags by name, once the shelf has examined its folder."""
    deadline = time.monotonic() + 600  # CI machines are busy
    while time.monotonic() < deadline:
        view = shelf.look()
        if view.items and not view.total and all(i.thumbnail for i in view.items if i.size):
            return {item.name: item.flags for item in view.items}
        time.sleep(0.1)
    raise AssertionError("not examined in time")


def test_the_shelf_lists_at_once_and_examines_beside(home: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    noise = Image.effect_noise((640, 600), 60).convert("RGB")
    source.mkdir()
    noise.save(source / "a.png")
    (source / "b.png").write_bytes((source / "a.png").read_bytes())
    Image.effect_noise((400, 500), 60).convert("RGB").save(source / "small.png")
    (source / "torn.png").write_bytes((source / "a.png").read_bytes()[:60])
    folder = datasets.import_files("set", [source]).folder
    shelf = Shelf(folder, 1024)
    first = shelf.look()
    assert [item.name for item in first.items if item.size] == ["a.png", "b.png", "small.png", "torn.png"]
    assert first.total == 4  # that one is torn shows only when it is decoded
    flags = examined(shelf)
    assert flags == {
        "a.png": ("no_caption",),
        "b.png": ("duplicate_of", "no_caption"),
        "small.png": ("small", "no_caption"),
        "torn.png": ("unreadable",),
    }
    assert "small" not in examined(Shelf(folder, 512))["small.png"]
    edits.save_caption(folder, "a.png", "  a red 苹果 ")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "a red 苹果\n"
    flags["a.png"] = ()
    begun = time.monotonic()
    while examined(shelf) != flags:  # it looks again after a while; what is known stays in sight meanwhile
        assert time.monotonic() - begun < 60 and examined(shelf)["b.png"] == flags["b.png"]
        time.sleep(0.1)
    for name in ("missing.png", "../set/a.png/../../x.png", "../../../etc/hostname"):
        with pytest.raises(ZitError):
            edits.save_caption(folder, name, "x")


# ---------------------------------------------------------------- pictures and adapters


def test_the_gallery_reads_the_disk_and_restores_what_made_a_picture(home: Path) -> None:
    older, newer = (home / "runs" / "generate" / name for name in ("20260101-000000_a", "20260102-000000_b"))
    save_png(older / "0000_5.png", Image.new("RGB", (64, 48)), recipe("a red apple"))
    save_png(newer / "0000_6.png", Image.new("RGB", (64, 48)), recipe("红苹果, Red", 6))
    picture(newer / "stranger.png")
    assert [(one.prompt, one.seed) for one in gallery.pictures()] == [("红苹果, Red", 6), ("a red apple", 5)]
    assert [one.seed for one in gallery.pictures("RED apple")] == [5]
    assert [one.seed for one in gallery.pictures("苹果")] == [6] and len(gallery.pictures(limit=1)) == 1
    restored = gallery.restore(older / "0000_5.png")
    settings = restored.settings
    assert (settings.prompts, settings.seed, settings.width, settings.steps) == (("a red apple",), 5, 64, 8)
    assert restored.model == "pocket" and settings.sigmas == (1.0, 0.5) and restored.missing == ()
    with pytest.raises(ZitError, match="no settings"):
        gallery.restore(newer / "stranger.png")


def test_adapters_are_found_by_content(home: Path, tmp_path: Path) -> None:
    tensors = {"diffusion_model.layers.0.attention.to_q.lora_A.weight": torch.zeros(4, 8)}
    trained = home / "runs" / "train" / "20260101-000000_mine"
    trained.mkdir(parents=True)
    (trained / "status.json").write_text(json.dumps({"name": "Mine", "phase": "done"}))
    noted = {"modelspec.trigger_phrase": "zxc", "ss_network_dim": "16", "ss_sd_model_name": "pocket"}
    save_file(tensors, trained / "adapter.safetensors", metadata=noted)
    own = home / "loras"
    own.mkdir()
    tags = {"ss_tag_frequency": json.dumps({"10_x": {"cat": 3, "ohwx": 9}})}
    save_file(tensors, own / "found.safetensors", metadata=tags)
    (own / "torn.safetensors").write_bytes((own / "found.safetensors").read_bytes()[:40])
    known = {one.name: one for one in adapters.library()}
    assert known.keys() == {"Mine", "found"}
    assert (known["Mine"].trigger, known["Mine"].rank, known["Mine"].base) == ("zxc", 16, "pocket")
    assert (known["found"].trigger, known["found"].rank) == ("ohwx", 4)

    digest = sha256_of_known(known["found"].path, 0)
    png = tmp_path / "x.png"
    save_png(png, Image.new("RGB", (64, 48)), recipe("a", 1, (LoraRecipe("renamed.safetensors", digest, 0.5, 1, 3),)))
    assert gallery.restore(png).settings.loras == (LoraUse(str(known["found"].path), 0.5, 1, 3),)
    known["found"].path.unlink()
    assert gallery.restore(png).settings.loras == () and gallery.restore(png).missing == ("renamed.safetensors",)
    assert gallery.restore(png).settings.prompts == ("a",)


def test_pictures_of_other_programs_give_their_settings_back(home: Path, tmp_path: Path) -> None:
    own = home / "loras" / "ink.safetensors"
    own.parent.mkdir(parents=True)
    save_file({"diffusion_model.layers.0.attention.to_q.lora_A.weight": torch.zeros(4, 8)}, own)
    chunks = PngInfo()
    chunks.add_text(
        "parameters",
        "red apple,\non a table <lora:ink:-0.5><lora:lost:0.8>\nNegative prompt: blurry, dark\nSteps: 20, Sampler: "
        'Euler, CFG scale: 4.5, Seed: 123, Size: 500x768, Model: pocket, Lora hashes: "ink: 12, lost: 34", Version: 1',
    )
    png = tmp_path / "theirs.png"
    Image.new("RGB", (8, 8)).save(png, pnginfo=chunks)
    restored = gallery.restore(png)
    assert restored.settings == GenerateSettings(
        prompts=("red apple,\non a table",), negative_prompt="blurry, dark", steps=20, guidance=3.5, seed=123,
        width=496, height=768, loras=(LoraUse(str(own), -0.5),),
    )  # fmt: skip
    assert (restored.model, restored.missing) == ("pocket", ("lost",))


def test_texts_that_say_little_restore_what_they_say() -> None:
    bare = parse_parameters("a cat")
    assert (bare.prompt, bare.negative_prompt, bare.seed, bare.guidance, bare.loras) == ("a cat", "", 0, 0.0, ())
    ours = parse_parameters(recipe("a cat", 7).parameters())
    assert (ours.prompt, ours.seed, ours.guidance) == ("a cat", 7, recipe("a cat", 7).guidance)
    assert parse_parameters("a\nSteps: many, Seed: x, Size: big").steps == 0


# ---------------------------------------------------------------- models and machine


def test_models_and_their_state(home: Path, tiny_model: Path) -> None:
    torn = home / "models" / "torn"
    for file in tiny_model.rglob("*"):
        if file.is_file():
            target = torn / file.relative_to(tiny_model)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    weights = next((torn / "transformer").glob("*.safetensors"))
    found = {model.name: model for model in model_files.models()}
    assert (found["torn"].state, found["torn"].steps, found["torn"].pixels) == ("ready", 8, 1024)
    assert found["turbo"].state == "missing" and found["torn"].size > weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:-10])
    again = {model.name: model for model in model_files.models()}["torn"]
    assert again.state == "incomplete" and weights.name in again.note


def test_the_machine() -> None:
    found = hardware.report()
    assert 0 < found.memory_free < found.memory and 0 < found.disk_free < found.disk and found.cores > 0
    text = "0, NVIDIA GeForce RTX 4090, 24564, 1024\n1, Odd card, [N/A], 3\nno table"
    cards = hardware.parse_cards(text)
    assert cards[0] == hardware.Card(0, "NVIDIA GeForce RTX 4090", 24564 << 20, 1024 << 20)
    assert cards[1].total == 0 and len(cards) == 2


# ---------------------------------------------------------------- caches


def test_the_cache_overview_agrees_with_what_is_built(home: Path, tmp_path: Path, tiny_model: Path) -> None:
    data = make_dataset(tmp_path / "data")
    asked = CacheSettings(str(data), str(tiny_model), 64)
    before = caches.overview(asked)
    assert (before.pictures, before.latents_ready, before.texts, before.texts_ready) == (3, 0, 4, 0)
    assert before.buckets == (((64, 64), 2), ((80, 48), 1)) and before.size == 0
    assert {why for _, why in before.stale} == {("new",)}
    build_cache(data, tiny_model, 64)
    full = caches.overview(asked)
    assert (full.latents_ready, full.texts_ready, full.unused, full.stale) == (3, 4, 0, ()) and full.size > 0
    (data / "0.txt").write_text("something new")
    stale = caches.overview(asked)
    assert (stale.latents_ready, stale.texts_ready) == (3, 3) and stale.stale == (("0.png", ("caption",)),)
    assert 0 < stale.unused < full.size
    other = caches.overview(replace(asked, resolution=96, trigger_word="tok"))
    assert (other.latents_ready, other.texts_ready) == (0, 1)
    assert dict(other.stale)["1.png"] == ("bucket", "crop", "caption")
    build_cache(data, tiny_model, 64, further=(48, 2048))  # of which one would enlarge
    both = caches.overview(replace(asked, further_resolutions=(48, 2048)))
    assert both.latents == both.latents_ready == 6 and {size for size, _ in both.buckets} > {(48, 48), (64, 64)}
    assert caches.overview(asked).unused > both.unused == stale.unused
    squares = replace(asked, enable_bucket=False, max_sequence_length=64)
    assert caches.overview(squares).latents_ready == 2 and caches.overview(squares).texts_ready == 0
    cache_run(Run.create("cache", "data", cache_toml(squares)), Progress())
    assert caches.overview(squares).stale == () and caches.overview(asked).latents_ready == 3
    (data / "0.txt").unlink()
    assert caches.overview(asked).uncaptioned == 1
    caches.clear(data)
    assert caches.overview(asked).size == 0 and (data / "1.txt").is_file()
