"""Downloads against a small hub: whole, interrupted, resumed, damaged, too large, unreachable, in their own process."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, serving
from zit_app.cli import main
from zit_app.core import process
from zit_app.core.errors import ZitError
from zit_app.core.models import find_model
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.service import downloads, transfer

REPO = "Tongyi-MAI/Z-Image-Turbo"
BIG = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model's files in it (their content is of no matter here), and much that nobody asked for."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(transfer, "WAIT_SECONDS", 0.01)
    folder = tmp_path / "repository"
    contents = {
        "model_index.json": b'{"_class_name": "ZImagePipeline"}',
        "scheduler/scheduler_config.json": b"{}",
        "text_encoder/model-00001-of-00002.safetensors": os.urandom(700_000),
        "text_encoder/model-00002-of-00002.safetensors": os.urandom(300_000),
        "text_encoder/config.json": b'{"hidden_size": 32}',
        "tokenizer/tokenizer.json": "词".encode() * 500,
        "transformer/config.json": b"{}",
        BIG: os.urandom(5_000_000),
        "vae/diffusion_pytorch_model.safetensors": os.urandom(100_000),
        "README.md": b"read me",
        "assets/gallery.png": b"picture",
        "vae/diffusion_pytorch_model.bin": b"pickle",
        "transformer/.hidden.json": b"{}",
        "transformer/deep/x.json": b"{}",
    }
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with serving(folder, REPO) as found:
        yield found


def fetch(hub: Hub, *words: str) -> int:
    return main(["models", "download", "turbo", "--endpoint", hub.url, *words])


def whole(hub: Hub, folder: Path) -> bool:
    wanted = [name for name in hub.files() if name.count("/") == 1 and not name.endswith((".bin", ".png"))]
    wanted = ["model_index.json", *(name for name in wanted if "/." not in name)]
    return all((folder / name).read_bytes() == (hub.folder / name).read_bytes() for name in wanted)


@pytest.mark.parametrize("source", ["hub", "modelscope"])
def test_a_model_arrives_whole_and_nothing_else(
    hub: Hub, home: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(hub, "--source", source, "--json") == 0
    folder = home / "models" / "Z-Image-Turbo"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["folder"] == str(folder)
    assert whole(hub, folder) and find_model("turbo") == folder
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    extra = {"README.md", "assets/gallery.png", "vae/diffusion_pytorch_model.bin"}
    assert not found & {*extra, "transformer/.hidden.json", "transformer/deep/x.json"}
    assert not any(name.endswith(".part") for name in found)
    assert hub.requests[-1][0] == "model_index.json"  # with it the model counts as here
    run = next((home / "runs" / "download").iterdir())
    assert Run.open(run).state() == "done" and Run.open(run).status()["step"] <= Run.open(run).status()["total"]


def test_an_omni_brings_what_it_sees_with(hub: Hub, home: Path) -> None:
    (hub.folder / "model_index.json").write_text('{"_class_name": "ZImageOmniPipeline"}')
    assert main(["models", "download", REPO, "--endpoint", hub.url]) == 1  # it came without eyes
    for name in ("siglip/model.safetensors", "siglip_processor/preprocessor_config.json"):
        (hub.folder / name).parent.mkdir()
        (hub.folder / name).write_bytes(b"{}")
    assert main(["models", "download", REPO, "--endpoint", hub.url]) == 0
    assert whole(hub, find_model(REPO.rpartition("/")[2])) and (home / "models" / "Z-Image-Turbo" / "siglip").is_dir()


def test_a_second_download_fetches_nothing(hub: Hub, home: Path) -> None:
    assert fetch(hub) == 0
    hub.requests.clear()
    assert fetch(hub) == 0 and hub.requests == []


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, home: Path) -> None:
    hub.break_after = {BIG: 3_000_000}
    assert fetch(hub) == 0
    ranges = [asked for name, asked in hub.requests if name == BIG]
    assert ranges[0] == "" and ranges[1] == "bytes=3000000-" and len(ranges) == 2
    assert whole(hub, home / "models" / "Z-Image-Turbo")


def test_a_server_without_ranges_starts_the_file_again(hub: Hub, home: Path) -> None:
    hub.break_after, hub.ranges = {BIG: 3_000_000}, False
    assert fetch(hub) == 0 and whole(hub, home / "models" / "Z-Image-Turbo")


def test_a_connection_that_stays_away_is_said_and_the_rest_goes_on_later(
    hub: Hub, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.break_after = {BIG: 2_000_000}
    hub.sizes = {BIG: 6_000_000}  # more than there is: every further answer ends without a new byte
    assert fetch(hub, "--json") == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "broke off" in said["error"] and "5 of 6 MB" in said["error"] and "goes on" in said["remedy"]
    folder = home / "models" / "Z-Image-Turbo"
    assert not (folder / "model_index.json").exists() and not (folder / BIG).exists()
    hub.sizes, hub.requests = {}, []
    assert fetch(hub) == 0 and whole(hub, folder)
    assert [name for name, _ in hub.requests] == ["model_index.json"]  # all 5 MB were here already


def test_a_wrong_hash_is_refused_and_only_that_file_comes_again(
    hub: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.damaged = {BIG}
    assert fetch(hub, "--json") == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "its hash differs" in said["error"] and said["remedy"]
    folder = home / "models" / "Z-Image-Turbo"
    assert not (folder / BIG).exists() and not list(folder.rglob("*.part"))
    hub.damaged, hub.requests = set(), []
    assert fetch(hub) == 0 and whole(hub, folder)
    assert [name for name, _ in hub.requests] == [BIG, "model_index.json"]


def test_too_small_a_disk_is_said_before_anything_is_fetched(
    hub: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sizes = {BIG: 10**17}
    assert fetch(hub, "--json") == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "GB are free" in said["error"] and "Free some space" in said["remedy"]
    assert hub.requests == []


@pytest.mark.parametrize("status, words", [(404, "does not have"), (401, "to everybody"), (500, "answers 500")])
def test_what_a_server_refuses_is_one_sentence(
    hub: Hub, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.status = status
    assert fetch(hub, "--json") == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert words in said["error"] and said["remedy"]


def test_without_a_network_the_folder_for_a_copy_by_hand_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["models", "download", "turbo", "--endpoint", "http://127.0.0.1:9", "--json"]
    assert main(words) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "127.0.0.1 cannot be reached" in said["error"]
    assert str(home / "models" / "Z-Image-Turbo") in said["remedy"] and "by hand" in said["remedy"]


def test_an_answer_that_is_none_is_said(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    (hub.folder / "x.json").write_text("{}")
    hub.hub_list = lambda: [{"type": "file"}]  # type: ignore[method-assign]
    assert fetch(hub, "--json") == 1
    assert "does not answer as a model hub" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]


def test_own_files_are_checked_and_never_overwritten(hub: Hub, home: Path) -> None:
    folder = home / "models" / "Z-Image-Turbo"
    (folder / "transformer").mkdir(parents=True)
    (folder / BIG).write_bytes((hub.folder / BIG).read_bytes())  # copied by hand
    (folder / "transformer" / "config.json").write_bytes(b'{"my": "own"}')
    assert fetch(hub) == 0 and whole(hub, folder)
    assert BIG not in [name for name, _ in hub.requests]
    assert (folder / "transformer" / "config.json.before").read_bytes() == b'{"my": "own"}'


def test_parts_can_be_left_out(hub: Hub, home: Path) -> None:
    assert fetch(hub, "--without", "transformer") == 0
    folder = home / "models" / "Z-Image-Turbo"
    assert not (folder / "transformer").exists() and not (folder / "model_index.json").exists()
    assert (folder / "text_encoder" / "config.json").is_file()


def test_unknown_models_and_parts_are_refused(home: Path) -> None:
    with pytest.raises(ZitError, match="Did you mean 'turbo'"):
        downloads.start("turbi")
    with pytest.raises(ZitError, match="Allowed: hub"):
        downloads.start("turbo", "nowhere")
    with pytest.raises(ZitError, match="is no address"):
        downloads.start("turbo", endpoint="mirror.example")
    with pytest.raises(ZitError, match="no part 'unet'"):
        downloads.start("turbo", without=("unet",))


def test_a_download_lives_in_its_own_process_and_survives_a_kill(hub: Hub, home: Path) -> None:
    hub.break_after = {BIG: 4_000_000}
    hub.sizes = {BIG: 6_000_000}  # it waits and tries again for some seconds: time enough to look and to kill
    run = downloads.start("turbo", endpoint=hub.url)
    status = until(lambda: next(filter(lambda found: "Downloading " + BIG in str(found), [run.status()]), None))
    assert status["pid"] != os.getpid() and run.state() == "running"
    view = downloads.newest("turbo")
    assert view is not None and view.folder == run.folder and view.can_stop
    with pytest.raises(ZitError, match="Another download works"):
        downloads.start("turbo", endpoint=hub.url)
    os.kill(status["pid"], signal.SIGKILL)
    until(lambda: process.started(status["pid"]) is None)
    assert run.state() == "interrupted"
    hub.sizes, hub.break_after = {}, {}
    downloads.resume(run)
    until(lambda: run.state() == "done")
    assert whole(hub, home / "models" / "Z-Image-Turbo")


def test_a_stopped_download_keeps_what_arrived(hub: Hub, home: Path) -> None:
    run = downloads.create(downloads.DownloadSettings("turbo", endpoint=hub.url))

    class Stops(Progress):
        def stage(self, text: str) -> None:
            super().stage(text)
            if BIG in text:
                downloads.stop(run)

    assert downloads.download(run, Stops(run)) is None
    assert run.state() == "stopped"
    folder = home / "models" / "Z-Image-Turbo"
    assert (folder / "text_encoder" / "config.json").is_file() and not (folder / "model_index.json").exists()


def until(found, seconds: float = 600.0):  # type: ignore[no-untyped-def]
    """What a condition gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return result
