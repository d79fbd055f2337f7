"""Captioning runs: what is asked, what is written, what stays, through kills and stops, by services and by models."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.captioning_service import CaptioningService, captioning_service
from tests.hub import serving
from tests.test_queue import wait_for
from tests.tiny_captioners import FAMILIES, make_captioner
from zit_app.core import paths
from zit_app.core.caption_settings import CaptionSettings, caption_toml
from zit_app.core.captioners import KNOWN, best_here, folder_of, languages_of, recommended
from zit_app.core.errors import ZitError
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data.caption_questions import question
from zit_app.data.pictures import scan_dataset
from zit_app.engine.describing import Captioned
from zit_app.engine.jobs import caption_run
from zit_app.model.vision_language import VisionLanguage
from zit_app.service import downloads, edits

pytestmark = pytest.mark.usefixtures("home", "one_thread")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Products of 32 numbers: threads would only wait for each other, on a busy machine ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def service() -> Iterator[CaptioningService]:
    with captioning_service() as started:
        yield started


def dataset(folder: Path, count: int, **captions: str) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40 + i, 30), (9 * i, 90, 90)).save(folder / f"p{i}.png")
    for name, text in captions.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def settings(folder: Path, service: CaptioningService, **more: object) -> CaptionSettings:
    return CaptionSettings(dataset=str(folder), captioner="openai", endpoint=service.url, **more)  # type: ignore[arg-type]


def submitted(given: CaptionSettings) -> Run:
    return Run.create("caption", "test", caption_toml(given))


def performed(given: CaptionSettings) -> Captioned:
    run = submitted(given)
    return caption_run(run, Progress(run))


def told(folder: Path) -> dict[str, str | None]:
    return {item.name.removesuffix(".png"): item.caption for item in scan_dataset(folder).items}


def test_captions_appear_and_what_a_person_wrote_stays(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 4, p1="by hand")
    done = performed(settings(folder, service, trigger="zxc"))
    assert (done.written, done.kept, done.complete) == (3, 1, True)
    assert told(folder) == {"p0": "zxc, Picture 1.", "p1": "by hand", "p2": "zxc, Picture 2.", "p3": "zxc, Picture 3."}

    again = performed(settings(folder, service, trigger="zxc"))  # the same question: nobody is asked
    assert (again.written, again.current, len(service.asked)) == (0, 3, 3)

    edits.save_caption(folder, "p2.png", "zxc, mine now")
    other = performed(settings(folder, service, trigger="zxc", style_of_prompt="person"))  # another question
    assert (other.written, other.kept) == (2, 2)
    assert told(folder)["p2"] == "zxc, mine now" and told(folder)["p0"] == "zxc, Picture 4."
    assert 'Call the person "zxc"' in service.texts[-1]

    every = performed(settings(folder, service, overwrite=True))
    assert every.written == 4 and told(folder)["p1"] == "Picture 7."


def test_a_run_is_taken_back_as_one_change(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 3, p1="by hand")
    performed(settings(folder, service, overwrite=True))
    edits.save_caption(folder, "p2.png", "better")
    assert edits.history(folder) == ["p2.png", "zit caption openai"]
    assert edits.undo(folder) == 1 and edits.undo(folder) == 3
    assert told(folder) == {"p0": None, "p1": "by hand", "p2": None} and not (folder / "p0.txt").exists()
    assert performed(settings(folder, service)).written == 2  # taken back: may be asked for again


def test_the_words_of_the_dataset_count(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 2)
    (folder / "dataset.toml").write_text('[dataset]\ntrigger_word = "tok"\n')
    (folder / "captions.jsonl").write_text('{"file_name": "p1.png", "caption": "from a table"}\n')
    Image.new("RGB", (3000, 10)).save(folder / "p0.jpg")  # its caption would be p0.txt, too
    done = performed(settings(folder, service, side=100))
    assert told(folder)["p1"] == "from a table" and done.kept == 1
    assert [name for name, _ in done.skipped] == ["p0.png"]
    assert (folder / "p0.txt").read_text().startswith("tok, ")
    assert service.sizes[0][0] * service.sizes[0][1] <= 100**2


def test_a_caption_that_is_no_utf8_text_is_named_and_left(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 2)
    (folder / "p0.txt").write_bytes(b"\xff\xfe caf\xe9")
    (folder / "torn.png").write_bytes((folder / "p0.png").read_bytes()[:40])
    done = performed(settings(folder, service, overwrite=True))
    assert done.written == 1 and {name for name, _ in done.skipped} == {"p0.txt", "torn.png"}
    assert (folder / "p0.txt").read_bytes() == b"\xff\xfe caf\xe9"


def test_what_is_written_while_the_captioner_thinks_stays(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 1)
    service.wait = 1.0
    run = submitted(settings(folder, service))
    working = threading.Thread(target=caption_run, args=(run, Progress(run)))
    working.start()
    wait_for(lambda: service.asked)
    edits.save_caption(folder, "p0.png", "quicker")
    working.join()
    assert told(folder) == {"p0": "quicker"}


def test_a_killed_run_goes_on_and_asks_about_no_picture_twice(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 12, p5="by hand")
    service.wait = 0.05
    command = [sys.executable, "-m", "zit_app.cli", "caption"]
    flags = [str(folder), "--captioner", "openai", "--endpoint", service.url]
    started = subprocess.Popen([*command, *flags], cwd=paths.PROJECT, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(service.asked) >= 4 or started.poll() is not None, 300)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    written = {name: text for name, text in told(folder).items() if text}
    assert 3 <= len(written) < 12 and all(text == "by hand" or text.startswith("Picture") for text in written.values())
    run = next(paths.runs("caption").iterdir())
    assert Run(run).state() == "interrupted"
    service.wait = 0
    gone_on = caption_run(Run.open(run), Progress(Run.open(run)))
    assert (gone_on.written, gone_on.kept, gone_on.complete) == (11, 1, True)
    assert told(folder).items() >= written.items() and all(told(folder).values())
    # at most the one answer that was on its way when the process died is asked for again
    assert len(service.asked) - len(set(service.asked)) <= 1 and len(set(service.asked)) == 11
    assert edits.history(folder) == ["zit caption openai"] and edits.undo(folder) == 11
    assert told(folder) == {f"p{i}": "by hand" if i == 5 else None for i in range(12)}


def test_an_answer_that_was_recorded_and_not_written_is_written(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 2)
    run = submitted(settings(folder, service))
    caption_run(run, Progress(run))
    (folder / "p1.txt").unlink()  # as if the process had died between record and file
    run.write_status("stopped")
    assert caption_run(run, Progress(run)).written == 2 and len(service.asked) == 2
    assert told(folder) == {"p0": "Picture 1.", "p1": "Picture 2."}


def test_a_stop_does_not_wait_for_an_answer(tmp_path: Path, service: CaptioningService) -> None:
    folder = dataset(tmp_path / "set", 2)
    run = submitted(settings(folder, service))
    service.wait = 30.0
    results: list[Captioned] = []
    working = threading.Thread(target=lambda: results.append(caption_run(run, Progress(run))))
    working.start()
    wait_for(lambda: service.asked)
    run.request(stop=1.0)
    working.join(25)
    assert results and not results[0].complete and run.state() == "stopped"
    assert told(folder) == {"p0": None, "p1": None}


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_a_service_is_asked_in_its_own_language(
    kind: str, tmp_path: Path, service: CaptioningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = dataset(tmp_path / "set", 1)
    monkeypatch.setenv("ZIT_CAPTION_KEY", "secret")
    service.key = "secret"
    given = CaptionSettings(dataset=str(folder), captioner=kind, endpoint=service.url + "/", language="zh")
    run = submitted(given)
    assert caption_run(run, Progress(run)).written == 1
    assert service.paths == [{"openai": "/v1/chat/completions", "ollama": "/api/chat"}[kind]]
    assert "中文" in service.texts[0]
    assert not any("secret" in file.read_text() for file in run.folder.iterdir() if file.is_file())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"status": 404, "body": b'{"error": "model not found"}'}, "answered 404: model not found. Check its address"),
        ({"status": 302}, "answered 302"),
        ({"key": "secret"}, "asks for a key. Put it into the environment variable ZIT_CAPTION_KEY"),
        ({"body": b"<html>"}, "does not answer as an OpenAI-compatible service does"),
        ({"body": b'{"choices": []}'}, "does not answer as an OpenAI-compatible service does"),
        ({"body": b'{"choices": [{"message": {"content": null}}]}'}, "does not answer as"),
        ({"body": b"[" * (2 << 20)}, "does not answer as"),
        ({"wait": 3.0}, "did not answer within 1 s. Be more patient"),
        ({"models": ("a", "b")}, "which model is to describe. Name one. It has: a, b"),
        ({"models": ()}, "which model is to describe. Name one. Ask it"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_a_service_that_fails_is_told_in_one_sentence(
    wrong: dict[str, object], said: str, tmp_path: Path, service: CaptioningService
) -> None:
    folder = dataset(tmp_path / "set", 1)
    for name, value in wrong.items():
        setattr(service, name, value)
    run = submitted(settings(folder, service, patience=1))
    with pytest.raises(ZitError) as error:
        caption_run(run, Progress(run))
    assert said in str(error.value) and run.state() == "failed"
    assert told(folder) == {"p0": None} and "/elsewhere" not in service.paths


def test_a_picture_that_fails_is_named_and_three_in_a_row_end_the_run(
    tmp_path: Path, service: CaptioningService
) -> None:
    folder = dataset(tmp_path / "set", 6)
    service.failing = {2, 3}
    done = performed(settings(folder, service))
    assert done.written == 4
    assert [(name, why.endswith("answered 500: out of memory.")) for name, why in done.skipped] == [
        ("p1.png", True), ("p2.png", True)
    ]  # fmt: skip
    service.failing = set(range(1, 100))
    with pytest.raises(ZitError, match="answered 500"):
        performed(settings(folder, service, overwrite=True))
    assert len(service.asked) == 9 and sum(bool(text) for text in told(folder).values()) == 4


def test_nobody_listens(tmp_path: Path) -> None:
    given = CaptionSettings(
        dataset=str(dataset(tmp_path / "set", 1)), captioner="ollama", endpoint="http://127.0.0.1:9", endpoint_model="m"
    )
    with pytest.raises(ZitError, match="cannot be reached"):
        performed(given)
    for address in ("", "127.0.0.1:99", "ftp://x", "http://x:port", "http://"):
        with pytest.raises(ZitError, match="address"):
            performed(CaptionSettings(dataset=given.dataset, captioner="ollama", endpoint=address))


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_each_family_are_loaded_asked_together_and_freed(family: str, tmp_path: Path) -> None:
    captioner = VisionLanguage(make_captioner(family, tmp_path / family), 8, lambda: False)
    wide, high = Image.effect_noise((96, 64), 90).convert("RGB"), Image.new("RGB", (80, 200), "red")
    asked = question("style", "en")
    together = captioner.describe([wide, high], asked)
    assert together == captioner.describe([wide], asked) + captioner.describe([high], asked)
    if family == "florence2":
        assert captioner._task(asked) == "<DETAILED_CAPTION>"
        assert captioner._task(question("free", "en")) == "<MORE_DETAILED_CAPTION>"
        with pytest.raises(ZitError, match="English only"):
            captioner.describe([wide], question("style", "zh"))
    else:
        written = captioner._conversation(asked.text)
        assert written.count(captioner.processor.image_token) == 1 and asked.text in written
        assert together[0] != captioner.describe([wide], question("free", "zh"))[0]
    model = weakref.ref(captioner.model)
    captioner.close()
    gc.collect()
    assert model() is None


def test_a_model_writes_captions_in_batches_and_stops_within_a_word(tmp_path: Path) -> None:
    folder, model = dataset(tmp_path / "set", 5), make_captioner("llava", tmp_path / "model")
    given = CaptionSettings(dataset=str(folder), captioner=str(model), max_tokens=16, batch_size=2, trigger="zxc")
    run = submitted(given)
    done = caption_run(run, Progress(run))
    assert done.written + len(done.skipped) == 5 and done.written
    assert all(text.startswith("zxc") for text in told(folder).values() if text)

    stopped = submitted(CaptionSettings(dataset=str(folder), captioner=str(model), overwrite=True, max_tokens=512))
    before = told(folder)

    class StopsSoon(Progress):
        looks = 0

        def stop_requested(self) -> bool:
            self.looks += 1
            return self.looks > 4

    progress = StopsSoon(stopped)
    assert not caption_run(stopped, progress).complete and progress.looks <= 6
    assert told(folder) == before and stopped.state() == "stopped"


def test_what_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    folder = make_captioner("florence2", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "florence2_language"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ZitError, match="first layout"):
        VisionLanguage(folder, 8, lambda: False)
    (folder / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    with pytest.raises(ZitError, match="cannot be loaded"):
        VisionLanguage(folder, 8, lambda: False)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ZitError, match="no safetensors file"):
        VisionLanguage(folder, 8, lambda: False)


def test_the_card_decides_what_is_recommended() -> None:
    gib = 1 << 30
    found = [recommended(size * gib) for size in (0, 4, 8, 12, 16, 24)]
    assert found == [
        "florence-2-base", "florence-2-large", "qwen3-vl-2b", "qwen3-vl-4b", "qwen3-vl-4b", "qwen3-vl-8b"
    ]  # fmt: skip
    assert best_here(24 * gib) == "pocket"
    make_captioner("florence2", folder_of("florence-2-large"))
    assert best_here(24 * gib) == "florence-2-large" and best_here(0) == "pocket"
    assert languages_of(folder_of("florence-2-large"), "florence2") == ("en",)
    assert KNOWN["pocket"].languages == ("en", "zh")


def test_a_captioner_is_downloaded_as_models_are(tmp_path: Path) -> None:
    source, repo = make_captioner("florence2", tmp_path / "source"), KNOWN["florence-2-base"].repo
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    (source / "onnx").mkdir()
    (source / "onnx" / "model.json").write_text("{}")
    with serving(source, repo) as hub:
        run = downloads.create(downloads.DownloadSettings("florence-2-base", endpoint=hub.url))
        assert downloads.download(run, Progress(run)) == folder_of("florence-2-base")
        assert hub.requests[-1][0] == "config.json"
        (source / "model.safetensors").unlink()
        (folder_of("florence-2-base") / "model.safetensors").unlink()
        again = downloads.create(downloads.DownloadSettings("florence-2-base", endpoint=hub.url))
        with pytest.raises(ZitError, match="no model in transformers' layout"):
            downloads.download(again, Progress(again))
    names = {path.name for path in folder_of("florence-2-base").iterdir() if not path.name.startswith(".")}
    assert "pytorch_model.bin" not in names and "onnx" not in names and "config.json" in names


def test_the_pocket_captioner_says_what_emoji_show_in_both_languages(tmp_path: Path) -> None:
    source = paths.assets() / "demo" / "pictures"
    for language, ending in (("en", ", centered, white background"), ("zh", "，居中，白色背景")):
        folder = tmp_path / language
        folder.mkdir()
        for name in ("butterfly", "cactus", "spouting_whale"):
            shutil.copy(source / f"{name}.png", folder)
        given = CaptionSettings(dataset=str(folder), captioner="pocket", style_of_prompt="style", language=language)
        assert performed(given).written == 3
        said = [str(text) for text in told(folder).values()]
        assert all(text.endswith(ending) and "emoji" not in text for text in said) and len(set(said)) > 1, said


def test_what_the_pocket_captioner_says_of_photographs_is_called_guesswork(tmp_path: Path) -> None:
    from zit_app.ui.text import chinese

    Image.new("RGB", (800, 600), "green").save(tmp_path / "meadow.jpg")
    Image.new("RGB", (128, 128), "green").save(tmp_path / "icon.png")
    done = performed(CaptionSettings(dataset=str(tmp_path), captioner="pocket"))
    assert "what it says of 1 larger pictures is guesswork" in done.summary and "1 张较大图片" in chinese(done.summary)
    assert "guesswork" not in performed(CaptionSettings(dataset=str(tmp_path), captioner="pocket")).summary
