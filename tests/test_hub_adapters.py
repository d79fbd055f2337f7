"""LoRA files by their id on a hub, against a small hub on this machine."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.hub import Hub, serving
from tests.test_adapters import random_lora
from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.core.library import adapter_name, find_adapter
from zit_app.core.progress import Progress
from zit_app.model.adapter_files import save_adapter
from zit_app.model.loading import load_transformer
from zit_app.service import transfer
from zit_app.service.hub_adapters import _is_plain, adapter_file

REPO, FILE = "someone/A-Style.v1", "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    file = tmp_path_factory.mktemp("lora") / "style.safetensors"
    save_adapter(file, random_lora(load_transformer(tiny_model, torch.device("cpu"), torch.float32)), 4, 4.0, {})
    return file


@pytest.fixture
def hub(tmp_path: Path, home: Path, lora: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one LoRA in a repository, and a text beside it."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(transfer, "WAIT_SECONDS", 0.01)
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / FILE).write_bytes(lora.read_bytes())
    (folder / "README.md").write_text("read me")
    with serving(folder, REPO) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def bring(text: str) -> Path:
    return adapter_file(text, Progress())


def test_a_lora_of_a_hub_draws_as_its_file_does_and_stays(
    hub: Hub, home: Path, tmp_path: Path, tiny_model: Path, lora: Path
) -> None:
    def draw(name: str, *use: str) -> np.ndarray:
        words = ["generate", "--model", str(tiny_model), "--prompt", "a cat", "--steps", "2", "--size", "64x48"]
        assert main([*words, *use, "--out", str(tmp_path / name)]) == 0
        return np.asarray(Image.open(tmp_path / name))

    by_id, by_file = draw("a.png", "--lora", f"{REPO}@0.5"), draw("b.png", "--lora", f"{lora}@0.5")
    assert np.array_equal(by_id, by_file) and not np.array_equal(by_id, draw("c.png"))
    here = home / "loras" / REPO / FILE
    record = json.loads(here.with_name(f"{FILE}.json").read_text())
    assert record == {
        "source": "hub",
        "repository": REPO,
        "file": FILE,
        "url": f"{hub.url}/{REPO}/resolve/main/{FILE}",
        "hash": f"sha256:{hashlib.sha256(lora.read_bytes()).hexdigest()}",
    }
    assert find_adapter("A-Style.v1") == here and adapter_name(here) == "A-Style.v1"  # in the library, by a name
    hub.status = 503
    assert bring(REPO) == bring(f"{REPO}/{FILE}") == here
    assert len(hub.requests) == 1 and not list(here.parent.glob("*.part"))


def test_modelscope_has_ids_of_its_own(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    here = bring(f"modelscope:{REPO}")
    assert here == home / "loras" / "modelscope" / REPO / FILE
    record = json.loads(here.with_name(f"{FILE}.json").read_text())
    assert (record["source"], record["repository"]) == ("modelscope", REPO) and hub.url in record["url"]
    assert record["hash"] == f"sha256:{hashlib.sha256(here.read_bytes()).hexdigest()}"
    hub.status = 503
    assert bring(f"modelscope:{REPO}/{FILE}") == here and find_adapter("A-Style.v1") == here
    with pytest.raises(ZitError, match="cannot be reached"):
        bring(REPO)  # the hub's is another one


def test_of_several_files_one_is_named(hub: Hub, home: Path) -> None:
    (hub.folder / "more").mkdir()
    (hub.folder / "more" / "second one.safetensors").write_bytes(b"second")
    with pytest.raises(ZitError, match=f"holds 2 files: more/second one.safetensors, {FILE}"):
        bring(REPO)
    assert bring(f"{REPO}/more/second one.safetensors").read_bytes() == b"second"
    with pytest.raises(ZitError, match="holds no third.safetensors. It holds: more/"):
        bring(f"{REPO}/third.safetensors")
    (hub.folder / FILE).unlink()
    (hub.folder / "more" / "second one.safetensors").rename(hub.folder / "weights.bin")
    with pytest.raises(ZitError, match="holds no .safetensors file"):
        bring(f"{REPO}/third.safetensors")


def test_a_damaged_file_is_not_kept_and_a_broken_one_goes_on(hub: Hub, home: Path) -> None:
    hub.damaged = {FILE}
    with pytest.raises(ZitError, match="its hash differs"):
        bring(REPO)
    assert not list((home / "loras").rglob("*.safetensors*"))
    hub.damaged, hub.break_after = set(), {FILE: 1000}
    assert bring(REPO).read_bytes() == (hub.folder / FILE).read_bytes()
    assert hub.requests[-1] == (FILE, "bytes=1000-")


def test_what_is_not_there_is_said_in_one_sentence(
    hub: Hub, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZitError, match="does not have someone/else"):
        bring("someone/else")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    words = ["generate", "--model", "pocket", "--prompt", "x", "--out", str(tmp_path / "x.png")]
    assert main([*words, "--lora", "someone/else"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("someone/else is not on this machine, and 127.0.0.1 cannot be reached. Check the name")
    for path in ("loras/style.safetensors", "./a/b", "/a/b", "../a", "a/b/c", "name", "a\\b/c"):
        with pytest.raises(ZitError, match="does not exist|no adapter"):
            bring(path)  # none of these is asked of a hub
    own = tmp_path / "someone" / "else"
    own.mkdir(parents=True)
    (own / "adapter_model.safetensors").write_bytes(b"own")
    monkeypatch.chdir(tmp_path)
    assert bring("someone/else").read_bytes() == b"own"


def test_no_path_of_a_server_leads_out_of_the_folder() -> None:
    assert _is_plain("x.safetensors") and _is_plain("a/x.safetensors")
    for path in ("../x", "/x", "a/../../x", "a\\x", "c:x", ".x", "a/.b/x"):
        assert not _is_plain(f"{path}.safetensors")
    assert not _is_plain("x.bin")
