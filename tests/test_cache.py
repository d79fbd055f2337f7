"""Caching a dataset: what is built, what is left alone, what is verified."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from zit_app.core.errors import ZitError
from zit_app.data.index import latents_path, text_path
from zit_app.engine.cache import build_cache
from zit_app.model.cache_files import read_latents, read_text, write_latents, write_text
from zit_app.model.loading import load_text_encoder, load_vae

CPU, FP32 = torch.device("cpu"), torch.float32


def make_dataset(folder: Path, sizes: tuple[tuple[int, int], ...] = ((64, 64), (96, 64), (64, 64))) -> Path:
    """Pictures of random pixels `0.png`, `1.png` … with captions of unequal length."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(7)
    for i, (width, height) in enumerate(sizes):
        pixels = torch.randint(0, 256, (width * height * 3,), generator=generator, dtype=torch.uint8)
        Image.frombytes("RGB", (width, height), bytes(pixels.tolist())).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"thing number {i}" + " and more" * i, encoding="utf-8")
    return folder


def stamps(dataset: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (dataset / ".zit_cache").rglob("*") if path.is_file()}


def test_builds_once_and_then_does_nothing(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    first = build_cache(dataset, tiny_model, 64, batch_size=2)
    assert (first.built_latents, first.built_texts, first.complete) == (3, 4, True)  # three captions, the empty one
    assert [sample.size for sample in first.samples] == [(64, 64), (80, 48), (64, 64)]
    assert [tuple(first.mean(sample).shape) for sample in first.samples] == [(16, 8, 8), (16, 6, 10), (16, 8, 8)]
    before = stamps(dataset)
    second = build_cache(dataset, tiny_model, 64, batch_size=2)
    assert (second.built_latents, second.built_texts) == (0, 0)
    assert second.samples == first.samples and stamps(dataset) == before


def test_holds_what_the_pipeline_would_compute(tmp_path: Path, tiny_model: Path) -> None:
    from diffusers import ZImagePipeline

    dataset = make_dataset(tmp_path / "data")
    cache = build_cache(dataset, tiny_model, 64, batch_size=3)
    pipeline = ZImagePipeline.from_pretrained(tiny_model, torch_dtype=FP32)
    for i, sample in enumerate(cache.samples):
        expected = pipeline.encode_prompt((dataset / f"{i}.txt").read_text(), do_classifier_free_guidance=False)[0][0]
        torch.testing.assert_close(cache.features(sample.text), expected, atol=1e-5, rtol=0)
    pixels = torch.frombuffer(bytearray(Image.open(dataset / "0.png").tobytes()), dtype=torch.uint8)
    x = pixels.view(1, 64, 64, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        posterior = pipeline.vae.encode(x).latent_dist
    torch.testing.assert_close(cache.mean(cache.samples[0]), posterior.mode()[0], atol=1e-5, rtol=1e-5)


def test_rebuilds_exactly_what_is_damaged_or_changed(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data")
    first = build_cache(dataset, tiny_model, 64)
    cut = latents_path(dataset, first.samples[0].latents)
    cut.write_bytes(cut.read_bytes()[:-100])
    swapped = text_path(dataset, first.samples[1].text)
    swapped.write_bytes(text_path(dataset, first.samples[2].text).read_bytes())
    again = build_cache(dataset, tiny_model, 64)
    assert (again.built_latents, again.built_texts) == (1, 1)
    assert capsys.readouterr().err.count("is built again") == 2
    assert torch.equal(again.mean(again.samples[0]), first.mean(first.samples[0]))

    (dataset / "2.txt").write_text("another caption", encoding="utf-8")
    Image.new("RGB", (64, 64), "red").save(dataset / "0.png")
    changed = build_cache(dataset, tiny_model, 64)
    assert (changed.built_latents, changed.built_texts) == (1, 1)
    finer = build_cache(dataset, tiny_model, 96)
    assert (finer.built_latents, finer.built_texts) == (3, 0)
    assert build_cache(dataset, tiny_model, 64).built_latents == 0  # both resolutions stay


def test_one_half_alone(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    for caption in dataset.glob("*.txt"):
        caption.unlink()
    latents = build_cache(dataset, tiny_model, 64, only="latents")  # needs no captions
    assert (latents.built_latents, latents.built_texts) == (3, 0)
    with pytest.raises(ZitError, match="3 of 3 pictures .* no caption"):
        build_cache(dataset, tiny_model, 64)
    text = build_cache(dataset, tiny_model, 64, only="text", trigger_word="tok")
    assert (text.built_latents, text.built_texts) == (0, 2)
    assert len({sample.text for sample in text.samples}) == 1


def test_skips_what_cannot_be_read_and_says_so(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data")
    (dataset / "1.png").write_bytes((dataset / "1.png").read_bytes()[:500])
    cache = build_cache(dataset, tiny_model, 64)
    assert [sample.name for sample in cache.samples] == ["0.png", "2.png"]
    assert [skipped.name for skipped in cache.skipped] == ["1.png"]
    assert "Skipped 1.png: " in capsys.readouterr().err


def test_files_are_verified_on_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    mean, logvar = torch.randn(16, 4, 6), torch.randn(16, 4, 6)
    write_latents(path, "print", mean, logvar)
    assert all(map(torch.equal, read_latents(path, "print"), (mean, logvar)))
    with pytest.raises(ZitError, match="belongs to something else"):
        read_latents(path, "other")
    with pytest.raises(ZitError, match="is missing"):
        read_latents(tmp_path / "b.safetensors", "print")
    mean[0, 0, 0] = float("nan")
    write_latents(path, "print", mean, logvar)
    with pytest.raises(ZitError, match="not finite"):
        read_latents(path, "print")
    write_latents(path, "print", logvar, logvar[:, :2])
    with pytest.raises(ZitError, match="shapes"):
        read_latents(path, "print")
    write_text(path, "print", torch.zeros(0, 32))
    with pytest.raises(ZitError, match="empty"):
        read_text(path, "print")
    for length in (0, 5, 60):
        path.write_bytes(os.urandom(length))
        with pytest.raises(ZitError, match="cannot be used"):
            read_text(path, "print")


def test_features_keep_the_precision_they_were_computed_in(tmp_path: Path, tiny_model: Path) -> None:
    tokenizer, encoder = load_text_encoder(tiny_model, CPU, torch.bfloat16)
    features = encoder(**tokenizer("a word", return_tensors="pt")).last_hidden_state[0]
    write_text(tmp_path / "a.safetensors", "print", features)
    read = read_text(tmp_path / "a.safetensors", "print")
    assert read.dtype == torch.bfloat16 and torch.equal(read, features)


def test_latents_survive_the_way_to_the_transformer_and_back(tiny_model: Path) -> None:
    from zit_app.model.latents import denormalise, normalise

    vae = load_vae(tiny_model, CPU, FP32)
    z = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(denormalise(vae, normalise(vae, z)), z)
    torch.testing.assert_close(normalise(vae, z), (z - 0.1159) * 0.3611)


def test_several_captions_mirroring_and_repeats(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    (dataset / "0.2.txt").write_text("another view", encoding="utf-8")
    (dataset / "dataset.toml").write_text("[dataset]\nflip = true\nrepeats = 2\n")
    cache = build_cache(dataset, tiny_model, 64)
    assert (cache.built_latents, cache.built_texts, cache.pictures) == (6, 5, 3)
    names = [sample.name for sample in cache.samples]
    assert {name: names.count(name) for name in names} == {"0.png": 8, "1.png": 4, "2.png": 4}
    first, mirrored = dict.fromkeys(sample.latents for sample in cache.samples if sample.name == "1.png")
    plain, turned = (read_latents(latents_path(dataset, key), key)[0] for key in (first, mirrored))
    assert plain.shape == turned.shape and not torch.allclose(plain, turned)
    (dataset / "dataset.toml").unlink()
    assert build_cache(dataset, tiny_model, 64).built_latents == 0


def test_further_resolutions_encode_what_they_would_not_enlarge(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data", ((64, 64), (100, 64), (128, 128)))
    build_cache(dataset, tiny_model, 64)
    cache = build_cache(dataset, tiny_model, 64, further=(32, 96, 64, 32))
    assert cache.resolutions == (64, 32, 96) and cache.side == 64
    found = [(sample.name, sample.size) for sample in cache.samples]
    assert found == [
        ("0.png", (64, 64)),
        ("0.png", (32, 32)),
        ("1.png", (80, 48)),
        ("1.png", (32, 32)),
        ("2.png", (64, 64)),
        ("2.png", (32, 32)),
        ("2.png", (96, 96)),
    ]
    assert cache.built_latents == 4 and cache.built_texts == 0  # those of 64 were there
    small, whole = (cache.mean(cache.samples[i]) for i in (5, 4))
    assert whole.shape == (16, 8, 8) and small.shape == (16, 4, 4)


def test_equal_pictures_and_captions_are_encoded_once(tmp_path: Path, tiny_model: Path) -> None:
    dataset = make_dataset(tmp_path / "data")
    (dataset / "copy.png").write_bytes((dataset / "0.png").read_bytes())
    (dataset / "copy.txt").write_bytes((dataset / "0.txt").read_bytes())
    cache = build_cache(dataset, tiny_model, 64)
    assert (cache.built_latents, cache.built_texts, len(cache.samples)) == (3, 4, 4)


def test_it_is_said_what_is_encoded_again_and_why(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_dataset(tmp_path / "data")
    Image.new("RGBA", (64, 64), (200, 0, 0, 99)).save(dataset / "2.png")
    build_cache(dataset, tiny_model, 64)
    capsys.readouterr()
    (dataset / "1.txt").write_text("another caption", encoding="utf-8")
    (dataset / "dataset.toml").write_text('[dataset]\nbackground = "black"\n')
    again = build_cache(dataset, tiny_model, 64)
    assert (again.built_latents, again.built_texts) == (1, 1)  # the background matters to what is transparent only
    said = capsys.readouterr().err
    assert "1 captions: the caption changed (1.png)" in said and "1 pictures: another background (2.png)" in said
    build_cache(dataset, tiny_model, 96)
    assert "another size and another crop (1.png)" in capsys.readouterr().err
