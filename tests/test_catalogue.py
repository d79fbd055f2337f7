"""Product catalogues: descriptions are cleaned, views stay together, categories can be chosen and balanced."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.data.catalogue import bring, clean, entries
from zit_app.data.pictures import captions, scan_dataset


def test_descriptions_become_captions() -> None:
    assert clean("Slim&nbsp;fit <b>jeans</b> in blue .<br/>Fading  throughout.. Model is 6'1 tall. ") == (
        "Slim fit jeans in blue. Fading throughout."
    )
    assert clean("See https://shop.example/x for more") == "See for more."
    assert clean("红色连衣裙。") == "红色连衣裙。" and clean(" <p></p> ") == ""


def test_a_table_comes_in_with_views_together(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = []
    goods = [("7", "SHIRTS"), ("7", "SHIRTS"), ("8", "SHIRTS"), ("9", "HATS & CAPS")]
    for number, (item, category) in enumerate(goods):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "description": f"Item <i>{item}</i>", "category": category, "product_id": item}
        lines.append(json.dumps(row))
    lines += ['{"image": "missing.png"}', '{"image": "../../etc/passwd"}', '{"description": "no picture"}']
    (tmp_path / "shop.jsonl").write_text("\n".join(lines))
    assert main(["import", str(tmp_path / "shop.jsonl"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["added"], said["items"]) == (4, 3) and said["categories"] == {"SHIRTS": 3, "HATS & CAPS": 1}
    assert [one["where"] for one in said["skipped"]] == ["line 5", "line 6", "line 7"]
    folder = home / "datasets" / "shop"
    assert {item.name: (item.caption, item.category, item.group) for item in scan_dataset(folder).items} == {
        "HATS-CAPS/9_0.png": ("Item 9.", "HATS & CAPS", "9"),
        "SHIRTS/7_0.png": ("Item 7.", "SHIRTS", "7"),
        "SHIRTS/7_1.png": ("Item 7.", "SHIRTS", "7"),
        "SHIRTS/8_0.png": ("Item 8.", "SHIRTS", "8"),
    }
    (folder / "dataset.toml").write_text('[dataset]\nbalance = "category"\n')
    assert [item.repeats for item in scan_dataset(folder).items] == [3, 1, 1, 1]


def test_fashion_gens_hdf5_comes_in(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 catalogues need the extra 'catalogue'")
    with h5py.File(tmp_path / "fashion.h5", "w") as file:
        file["input_image"] = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
        texts = ["Caf\xe9 dress.<br>Long.", "Shoe", "Shoe, side"]
        file["input_description"] = np.array([[text.encode("latin-1")] for text in texts])
        file["input_category"] = np.array([[b"DRESSES"], [b"SHOES"], [b"SHOES"]])
        file["input_productID"] = np.array([[1], [2], [2]])
    brought = bring(entries(tmp_path / "fashion.h5"), tmp_path / "set", frozenset({"SHOES"}))
    assert (brought.added, brought.items) == (2, 1)
    scan = scan_dataset(tmp_path / "set")
    assert captions(scan) == [("Shoe.",), ("Shoe, side.",)] and {item.group for item in scan.items} == {"2"}
    assert np.array_equal(np.asarray(Image.open(scan.items[0].path)), np.arange(48, 96).reshape(4, 4, 3))
    brought = bring(entries(tmp_path / "fashion.h5"), tmp_path / "all")
    assert scan_dataset(tmp_path / "all").items[0].caption == "Café dress. Long."


def test_what_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", "{"), ("b.jsonl", "[1]"), ("c.pdf", ""), ("d.jsonl", ""), ("e.h5", "x")):
        (tmp_path / name).write_text(data)
        with pytest.raises(ZitError):
            bring(entries(tmp_path / name), tmp_path / "out")
    assert not (tmp_path / "out" / "captions.jsonl").exists()
