"""The command line: exit codes, one sentence an error, one JSON object as the last line, quiet libraries."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from zit_app.cli import main
from zit_app.core import lock, process
from zit_app.core.files import write_json
from zit_app.core.run import Run

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def loud_again() -> Iterator[None]:
    """The command line silences the whole process; other tests may want to hear libraries."""
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {colour} square")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return folder


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_no_words_open_the_page_of_the_app_that_runs_already(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", "true")  # the program of that name, which does nothing
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:  # some page that answers
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        write_json(home / "app.json", {"address": address, **process.own_identity()})
        with lock.held(home / "app.lock"):
            assert main([]) == 0
        server.shutdown()
    assert address in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, code, says",
    [
        (["genrate"], 2, "Did you mean 'generate'?"),
        (["generate", "--model", "pocket"], 2, "--prompt --prompts is required"),
        (["generate", "--model", "pocket", "--prompt", "a", "--steps", "900"], 2, "900 is not allowed"),
        (["generate", "--model", "pocket", "--prompt", "a", "--steps", "many"], 2, "'many' is no number"),
        (["generate", "--model", "pocket", "--prompt", "a", "--size", "100x100"], 2, "Try 96x96"),
        (["generate", "--model", "pocket", "--prompt", "a", "--precision", "fp16"], 2, "auto | fp32 | bf16"),
        (["generate", "--model", "poket", "--prompt", "a"], 1, "Did you mean 'pocket'?"),
        (["generate", "--model", "pocket", "--prompts", "missing.txt"], 1, "missing.txt cannot be read"),
        (["train", "--preset", "style"], 2, "--dataset and --model"),
        (["train", "--preset", "stile", "--dataset", ".", "--model", "pocket"], 1, "Did you mean 'style'?"),
        (["train", "--preset", "style", "--dataset", "nowhere", "--model", "pocket"], 1, "no folder nowhere"),
        (["train", "--resume", "nothing"], 1, "no train run 'nothing'"),
        (["cache", "nowhere", "--model", "pocket"], 1, "no folder nowhere"),
        (["cache", ".", "--model", "pocket", "--enable-bucket", "perhaps"], 2, "true or false"),
        (["pocket", "teach", "--work", "nowhere", "--style", "line"], 1, "Did you mean 'lines'?"),
        (["pocket", "teach", "--work", "nowhere", "--set", "lora.layers=5"], 2, "name it with --style"),
    ],
)
def test_mistakes_are_one_sentence_with_a_remedy(
    words: list[str], code: int, says: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == code
    shown = capsys.readouterr()
    assert says in shown.err and len(shown.err.splitlines()) == 1
    answer = json.loads(shown.out.splitlines()[-1])
    assert says in f"{answer['error']} {answer['remedy']}"
    assert not (home / "runs").exists(), "a mistake in the words makes no run"


def test_a_traceback_only_with_debug(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--resume", "nothing"]
    main(words)
    assert "Traceback" not in capsys.readouterr().err
    assert main([*words, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_models_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--json"]) == 0
    models = {model["name"]: model for model in last_json(capsys)["models"]}
    assert {"pocket", "pocket-base", "turbo", "base"} <= set(models)
    assert models["turbo"]["path"] == str(home / "models" / "Z-Image-Turbo")


def test_from_pictures_to_a_picture_with_an_adapter(
    tiny_model: Path, home: Path, tmp_path: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_model)]
    assert main(["cache", str(dataset), *model, "--resolution", "64", "--json"]) == 0
    cached = last_json(capsys)
    assert (cached["pictures"], cached["built_latents"], cached["built_texts"]) == (3, 3, 4)
    assert [entry["name"] for entry in cached["skipped"]] == ["broken.png"]
    assert Run.open(Path(cached["run"])).state() == "done"
    further = ["--further-resolutions", "48,2048"]  # of which one would enlarge
    assert main(["cache", str(dataset), *model, "--resolution", "64", *further, "--json"]) == 0
    cached = last_json(capsys)
    assert (cached["pictures"], cached["built_latents"], cached["built_texts"]) == (3, 3, 0)
    other = ["--enable-bucket", "false", "--max-sequence-length", "16"]
    assert main(["cache", str(dataset), *model, "--resolution", "64", *other, "--json"]) == 0
    cached = last_json(capsys)
    assert (cached["built_latents"], cached["built_texts"]) == (0, 4)  # squares they were, captions are cut now
    assert "enable_bucket = false" in (Path(cached["run"]) / "settings.toml").read_text()

    out, changes = tmp_path / "run", ["training.max_steps=2", "dataset.resolution=64", "training.learning_rate=0.5"]
    sets = [word for change in changes for word in ("--set", change)]
    words = ["train", "--preset", "style", "--dataset", str(dataset), *model, *sets, "--out", str(out), "--json"]
    assert main(words) == 0
    trained = last_json(capsys)
    assert (trained["adapter"], trained["state"], trained["step"]) == (str(out / "adapter.safetensors"), "done", 2)

    assert main(["lora", "inspect", trained["adapter"], "--json"]) == 0
    inspected = last_json(capsys)
    assert inspected["ranks"] == [16] and inspected["modules"] == 14 and not inspected["unmatched"]

    (tmp_path / "prompts.txt").write_text("a red square\n\na blue square\n", encoding="utf-8")
    prompts = ["generate", *model, "--prompts", str(tmp_path / "prompts.txt"), "--size", "64x64", "--seed", "5"]
    assert main([*prompts, "--out", str(tmp_path / "plain"), "--json"]) == 0
    plain = [Path(name) for name in last_json(capsys)["pictures"]]
    assert [path.name for path in plain] == ["0000_5.png", "0001_5.png"]
    assert main([*prompts, "--lora", f"{trained['adapter']}@1.5@1-4", "--out", str(tmp_path / "with"), "--json"]) == 0
    for before, after in zip(plain, last_json(capsys)["pictures"], strict=True):
        assert Image.open(before).size == (64, 64)
        assert Image.open(before).tobytes() != Image.open(after).tobytes()


def test_libraries_are_quiet_and_only_the_needed_ones_are_imported(tiny_model: Path, home: Path) -> None:
    code = "import sys; from zit_app.cli import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"
    words = ["generate", "--model", str(tiny_model), "--prompt", "a cat", "--size", "64x64"]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert ran.returncode == 0, ran.stderr
    ours = r"Reading the prompts|Loading the model|Drawing 1 picture.*|  \d+/8.*"
    assert all(re.fullmatch(ours, line) for line in ran.stderr.splitlines()), ran.stderr
    *shown, modules = ran.stdout.splitlines()
    assert len(shown) == 2 and shown[0].endswith("0000_0.png") and shown[1].startswith("1 pictures in")
    assert not {"gradio", "torchvision"} & set(modules.split())
    assert "bitsandbytes" in modules.split() and "scipy" not in modules.split()
    assert not any("inductor.codegen" in name for name in modules.split())


@pytest.mark.parametrize("words", ["cache {} --model pocket", "caption {}", "train --dataset {} --model pocket"])
def test_a_folder_without_pictures_is_refused_before_libraries_are_loaded(
    words: str, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no picture")
    code = "import sys; from zit_app.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    given = [word.format(tmp_path / "none") for word in words.split()]
    given += ["--preset", "style"] * (given[0] == "train")
    ran = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert ran.stdout == "1 False\n" and "holds no picture" in ran.stderr
    assert not (home / "runs").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_saves_and_says_how_to_go_on(tiny_model: Path, home: Path, tmp_path: Path, dataset: Path) -> None:
    changes = ["training.max_steps=100000", "dataset.resolution=64", "training.save_every=0"]
    sets = [word for change in changes for word in ("--set", change)]
    words = [
        "--preset",
        "style",
        "--dataset",
        str(dataset),
        "--model",
        str(tiny_model),
        *sets,
        "--out",
        str(tmp_path / "r"),
    ]
    command = [sys.executable, str(PROJECT / "app.py"), "train", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        metrics, deadline = tmp_path / "r" / "metrics.jsonl", time.monotonic() + 900
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            assert training.poll() is None, training.communicate()[1]
            time.sleep(0.05)
        os.kill(training.pid, signal.SIGINT)
        shown, _ = training.communicate(timeout=900)
    assert training.returncode == 130
    answer = json.loads(shown.splitlines()[-1])
    assert answer["state"] == "stopped" and answer["adapter"] is None and answer["step"] > 0
    assert list((tmp_path / "r" / "checkpoints").iterdir())
