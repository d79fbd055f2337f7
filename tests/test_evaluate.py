"""Evaluations: the measures against their textbooks, the CLIP folder, runs that repeat themselves."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy import linalg

from tests.tiny_clip import make_tiny_clip
from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.core.eval_settings import load_evaluation
from zit_app.core.paths import assets
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.reading import PACKAGE, asked_texts, is_installed, letters, texts_found
from zit_app.engine.compare import cell_path
from zit_app.engine.evaluate import evaluate
from zit_app.engine.pocket.measure import canonical_prompts
from zit_app.engine.pocket.questions import load_questions
from zit_app.engine.pocket.recall import found_and_styled, judges_prompts
from zit_app.engine.warm import Warm
from zit_app.flow.bootstrap import centred, interval, resamples
from zit_app.flow.frechet import frechet_distance, moments
from zit_app.model.clip import Clip

CPU = torch.device("cpu")
PROMPTS = ["a red cat", "a blue dog", 'a tree "TREE"', "a house"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_clip(tmp_path_factory.mktemp("clip"))


# ------------------------------------------------------------ mathematics


@pytest.mark.parametrize(("points", "others"), [(400, 300), (7, 200), (6, 5)])
def test_the_frechet_distance_is_its_formula(points: int, others: int) -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    a = torch.randn(points, 12, generator=generator, dtype=torch.float64) @ mixing + 0.3
    b = torch.randn(others, 12, generator=generator, dtype=torch.float64)
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    between = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = between + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(moments(a), moments(a)) == pytest.approx(0, abs=1e-9)


def test_intervals_hold_what_they_say() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    chosen = resamples(200, 4000)
    assert torch.equal(chosen, resamples(200, 4000)) and not torch.equal(chosen, resamples(200, 4000, seed=1))
    drawn = values[chosen].mean(1)
    low, high = interval(drawn)
    deviation = values.std().item() / 200**0.5
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.06)
    assert (low + high) / 2 == pytest.approx(values.mean().item(), abs=0.2 * deviation)
    assert interval(torch.cat([drawn, torch.tensor([torch.nan])])) == (low, high)
    assert centred(5.0, drawn).mean().item() == pytest.approx(5.0)


# ------------------------------------------------------------ eyes


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_sees_what_its_model_sees(tmp_path: Path, kind: str) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = make_tiny_clip(tmp_path / kind, kind)
    files = [tmp_path / f"{i}.png" for i in range(18)]  # more than a batch
    for i, file in enumerate(files):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 56, 3), np.uint8)).save(file)
    seen = Clip(folder, CPU)
    found, words = seen.pictures(files), seen.prompts(["a red cat", "tree " * 40])
    assert torch.allclose(found.norm(dim=1), torch.ones(18), atol=1e-5)
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=[Image.open(files[17]).convert("RGB")], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(
        ["a red cat"], return_tensors="pt", **({"padding": "max_length", "max_length": 12} if kind == "siglip" else {})
    )
    tokens.pop("token_type_ids", None)
    if kind == "siglip":
        tokens.pop("attention_mask")
    with torch.no_grad():
        cosine = torch.nn.functional.cosine_similarity(
            model.get_image_features(**pixels).pooler_output, model.get_text_features(**tokens).pooler_output
        )
    assert (found[17] @ words[0]).item() == pytest.approx(cosine.item(), abs=1e-5)


def test_a_folder_without_eyes_is_refused(tmp_path: Path, tiny_model: Path, clip: Path) -> None:
    with pytest.raises(ZitError, match="holds no CLIP"):
        Clip(tmp_path, CPU)
    with pytest.raises(ZitError, match="holds no CLIP"):
        Clip(tiny_model / "text_encoder", CPU)
    (tmp_path / "config.json").write_bytes((clip / "config.json").read_bytes())
    with pytest.raises(ZitError, match="cannot be loaded as a clip model"):
        Clip(tmp_path, CPU)


# ------------------------------------------------------------ the judge


def test_the_judge_finds_real_pictures_and_says_nothing_of_other_prompts(tmp_path: Path) -> None:
    questions = load_questions(assets() / "judge")
    prompts, files = list(judges_prompts()[:12]), []
    for number, picture in enumerate(questions.truth[:12]):
        files.append([tmp_path / f"{number}.png"])
        picture.save(files[-1][0])
    found = found_and_styled([*prompts, "a cat"], [*files, files[0]])
    assert found is not None
    right, styled = found
    assert right[:12].mean() >= 0.8 and styled[:12].mean() >= 0.8 and right[12].isnan() and styled[12].isnan()
    wrong = found_and_styled(prompts, files[1:] + files[:1])
    assert wrong is not None and wrong[0].mean() <= 0.2
    assert found_and_styled(["a cat"], files[:1]) is None
    assert set(judges_prompts()) < set(canonical_prompts(questions.pairs) + canonical_prompts(questions.pairs, True))


# ------------------------------------------------------------ text


def test_what_a_prompt_wants_written_is_what_it_quotes() -> None:
    assert asked_texts('a sign "OPEN LATE" and “茶馆”') == ("OPEN LATE", "茶馆")
    assert asked_texts("写着「山」和‘水’的纸") == ("山", "水") and asked_texts("the cat's tail") == ()
    assert letters("Open - Late! 茶 馆") == "openlate茶馆"
    shipped = (assets() / "prompts" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    assert sum(bool(asked_texts(prompt)) for prompt in shipped) == 6


def test_written_text_is_found(tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE)
    files = []
    for name, text in (("right", "Open Late"), ("wrong", "Often Late"), ("empty", "")):
        picture = Image.new("RGB", (512, 256), "white")
        ImageDraw.Draw(picture).text((40, 80), text, "black", ImageFont.load_default(64))
        files.append(tmp_path / f"{name}.png")
        picture.save(files[-1])
    found = texts_found(['a sign "OPEN LATE"', 'the words "OPEN", "LATE"', "a sign"], [files, files[:2], files])
    assert found == pytest.approx([1 / 3, 1 / 2, math.nan], nan_ok=True)


# ------------------------------------------------------------ runs


def test_an_evaluation_compares_and_repeats_itself(
    home: Path, tmp_path: Path, tiny_model: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references = tmp_path / "real"
    references.mkdir()
    for i in range(5):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)).save(references / f"{i}.jpg")
    out = tmp_path / "out"
    words = ["eval", "--model", str(tiny_model), "--prompts", *PROMPTS, "--seeds", "0,1", "--size", "64x48"]
    words += ["--variant", "two=steps=2", "--variant", "four=steps=4", "--clip", str(clip), "--json"]
    words += ["--references", str(references), "--resamples", "200"]
    assert main([*words, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    reads = {"text"} if is_installed() else set()
    assert set(report["figures"]["two"]) == {"agreement", "frechet", "sharpness", "diversity"} | reads
    assert set(report["differences"]) == {"four"}
    for name, row in report["differences"]["four"].items():
        assert row["low"] <= row["value"] <= row["high"], name
        both = [report["figures"][variant][name]["value"] for variant in ("four", "two")]
        assert row["value"] == pytest.approx(both[0] - both[1], abs=2e-6)

    seen = Clip(clip, CPU)
    files = [cell_path(out, "two", prompt, seed) for prompt in range(4) for seed in (0, 1)]
    shown = seen.pictures(files)
    by_hand = (shown * seen.prompts(PROMPTS).repeat_interleave(2, 0)).sum(1).mean().item()
    assert report["figures"]["two"]["agreement"]["value"] == pytest.approx(by_hand, abs=1e-5)
    real = moments(seen.pictures(sorted(references.iterdir())))
    distance = frechet_distance(moments(shown), real)
    assert report["figures"]["two"]["frechet"]["value"] == pytest.approx(distance, abs=1e-5)
    page = (out / "report.md").read_text(encoding="utf-8")
    assert ("1 prompt asks for text in the picture" in page) == (not reads)
    assert report["command"] in page and f"{report['figures']['two']['sharpness']['value']:.4f}" in page

    drawn = {file: file.stat().st_mtime_ns for file in out.glob("cells/*/*.png")}
    assert len(drawn) == 16
    again = report["command"].split()[1:]
    assert main([*again, "--json"]) == 0  # in its own folder: nothing is drawn
    repeated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert repeated["figures"] == report["figures"] and repeated["differences"] == report["differences"]
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
    assert main([*again, "--out", str(tmp_path / "anew"), "--json"]) == 0  # elsewhere: everything is drawn
    anew = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert anew["figures"] == report["figures"]

    gone = cell_path(out, "four", 2, 1)
    gone.unlink()
    run = Run.open(out)
    evaluate(*load_evaluation(run.folder / "settings.toml"), run, Progress(run), Warm())
    assert gone.is_file() and run.state() == "done"
    drawn.pop(gone)
    assert {file: file.stat().st_mtime_ns for file in drawn} == drawn


def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(
    home: Path, tmp_path: Path, tiny_model: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    common = ["eval", "--model", str(tiny_model), "--out", str(out)]
    several = [*common, "--prompts", *PROMPTS]
    for words, said in (
        ([*several, "--references", str(empty)], "needs the eyes of a CLIP"),
        ([*several, "--clip", str(clip), "--references", str(empty)], "fewer than two pictures"),
        ([*several, "--clip", str(empty)], "holds no CLIP"),
        ([*several, "--clip", str(tmp_path / "none")], "There is no folder"),
        ([*common, "--prompts", "a cat"], "at least two prompts"),
        (["eval", "--again", str(empty)], "holds no run"),
    ):
        assert main(words) == 1
        assert said in capsys.readouterr().err
        assert not list(out.glob("cells/*/*"))
    assert main(["eval"]) == 2


def test_the_shipped_set_is_half_chinese(home: Path, tmp_path: Path, tiny_model: Path) -> None:
    prompts = (assets() / "prompts" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(prompts)) == 100 and sum(not prompt.isascii() for prompt in prompts) == 50
    run = Run.create("eval", "x", "", tmp_path / "other")
    (run.folder / "settings.toml").write_text("[generate]\n")
    with pytest.raises(ZitError, match="is no evaluation"):
        load_evaluation(run.folder / "settings.toml")
