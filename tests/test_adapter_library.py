"""Adapters by name: what lies in the library is found, and what is not is said."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from zit_app.core.errors import ZitError
from zit_app.core.library import base_of, find_adapter, trigger_of
from zit_app.service import adapters

KEY = "diffusion_model.layers.0.attention.to_q"


def put(path: Path, part: str = "lora_A.weight") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{KEY}.{part}": np.zeros((4, 8), np.float32)}, path)
    return path


@pytest.fixture
def library(home: Path) -> Path:
    trained = put(home / "runs" / "train" / "20260101-000000_ink" / "adapter.safetensors")
    (trained.parent / "status.json").write_text(json.dumps({"name": "Ink wash", "phase": "done"}))
    put(home / "loras" / "styles" / "pixel v1.2.safetensors", "lokr_w1")
    put(home / "loras" / "twin.safetensors")
    put(home / "loras" / "more" / "twin.safetensors")
    put(home / "loras" / "peft one" / "adapter_model.safetensors", "lora_magnitude_vector")
    return home


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Ink wash", "runs/train/20260101-000000_ink/adapter.safetensors"),
        ("20260101-000000_ink", "runs/train/20260101-000000_ink/adapter.safetensors"),
        ("pixel v1.2", "loras/styles/pixel v1.2.safetensors"),
        ("peft one", "loras/peft one/adapter_model.safetensors"),
    ],
)
def test_a_name_is_found(library: Path, name: str, place: str) -> None:
    assert find_adapter(name) == library / place
    assert find_adapter(str(library / place)) == find_adapter(str(library / place)) == library / place


def test_a_folder_stands_for_the_adapter_in_it(library: Path) -> None:
    assert find_adapter(str(library / "loras" / "peft one")).name == "adapter_model.safetensors"
    with pytest.raises(ZitError, match="without an adapter"):
        find_adapter(str(library / "loras"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("twin", "2 adapters are called 'twin'. Give the file; the newest is"),
        ("Ink wsh", "no adapter 'Ink wsh'. Did you mean 'Ink wash'?"),
        ("gone.safetensors", "gone.safetensors does not exist"),
        ("../elsewhere/ink", "does not exist"),
    ],
)
def test_what_is_not_there_is_said(library: Path, name: str, words: str) -> None:
    with pytest.raises(ZitError) as caught:
        find_adapter(name)
    assert words in str(caught.value)


def test_the_library_names_the_kinds_and_survives_bad_files(library: Path) -> None:
    for number, header in enumerate((b'{"__metadata__": 5}', b'{"__metadata__": {"a": 1}}', b"[" * 90_000, b"{}x")):
        (library / "loras" / f"bad{number}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    kinds = {one.name: one.kind for one in adapters.library()}
    assert kinds == {"Ink wash": "LoRA", "pixel v1.2": "LoKr", "twin": "LoRA", "peft one": "DoRA"}


def test_what_a_file_says_of_itself() -> None:
    tags = {"ss_tag_frequency": json.dumps({"10_x": {"cat": 3, " ohwx ": 9}, "5_y": {"dog": 1}})}
    assert trigger_of({"modelspec.trigger_phrase": "zxc", **tags}) == "zxc"
    assert trigger_of(tags) == "ohwx"
    for broken in ("{", "[]", '{"a": 5}', '{"a": {"b": "c", "d": 1}}', "[" * 90_000):
        assert trigger_of({"ss_tag_frequency": broken}) == ""
    assert base_of({"ss_sd_model_name": "Z-Image", "ss_sd_model_hash": "ab"}) == ("Z-Image", "ab")
    assert base_of({}) == ("", "")
