"""Files that we write: exact, with ComfyUI's names, loaded by plain diffusers; and what is made of several."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file

from tests.adapter_zoo import (
    COMFY,
    DOWN_UP,
    FEED_FORWARD,
    KOHYA,
    LYCORIS,
    MAIN,
    NORMS,
    OUTER,
    Zoo,
    differences,
    dora,
    loha,
    lokr,
    lora,
    lora_changes,
    mixed_ranks,
    plain,
)
from tests.test_adapter_layouts import VARIANTS, velocity
from zit_app.cli import main
from zit_app.core.errors import ZitError
from zit_app.model.adapter_changes import Change, Dora, Kron, LowRank
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_merging import merged
from zit_app.model.adapter_stack import apply_adapters
from zit_app.model.adapter_svd import truncated, truncated_kron, truncated_low_rank
from zit_app.model.adapter_writing import write_adapter

READABLE = [name for name in VARIANTS if not name.startswith("refused")]
CUT = "lokr fused"  # a third of a Kronecker product is none as a rule


@pytest.fixture(scope="module")
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    return copy.deepcopy(tiny_pipeline.transformer)


@pytest.fixture
def zoo(transformer: ZImageTransformer2DModel) -> Zoo:
    return Zoo({key: value.clone() for key, value in transformer.state_dict().items()}, seed=3)


def same(one: Change, other: Change) -> bool:
    magnitudes = not isinstance(one, Dora) or (isinstance(other, Dora) and torch.equal(one.magnitude, other.magnitude))
    return type(one) is type(other) and torch.equal(one.delta(), other.delta()) and magnitudes


@pytest.mark.parametrize("name", READABLE)
def test_a_round_trip_is_exact(zoo: Zoo, tmp_path: Path, name: str) -> None:
    VARIANTS[name](zoo)
    adapter = read_adapter(zoo.write(tmp_path))
    out = tmp_path / "out.safetensors"
    if name.startswith(CUT) and ("through" in name or "product" in name or "many" in name):
        with pytest.raises(ZitError, match="cut out of a larger LoKr"):
            write_adapter(out, adapter)
        assert not out.exists()
        return
    write_adapter(out, adapter)
    again = read_adapter(out)
    assert again.modules.keys() == adapter.modules.keys() and again.biases.keys() == adapter.biases.keys()
    assert all(same(change, again.modules[key]) for key, change in adapter.modules.items())
    assert all(torch.equal(bias, again.biases[key]) for key, bias in adapter.biases.items())
    assert all(key.startswith("diffusion_model.") for key in load_file(out))


def test_the_names_are_those_of_comfyui(zoo: Zoo, tmp_path: Path) -> None:
    """As ComfyUI's loader composes them: `diffusion_model.` + diffusers' module + the part."""
    lora(zoo, ["layers.0.attention.to_out.0", "t_embedder.mlp.2"], KOHYA, DOWN_UP, alpha=3.0)
    plain(zoo, lokr(zoo, FEED_FORWARD[:1], LYCORIS, 4))
    plain(zoo, lokr(zoo, FEED_FORWARD[1:2], LYCORIS, 4, rank1=1, rank2=2, alpha=2.0))
    plain(zoo, loha(zoo, FEED_FORWARD[2:3], KOHYA))
    dora(zoo, lora_changes(zoo, FEED_FORWARD[3:4], KOHYA, DOWN_UP, 2.0), KOHYA, ".dora_scale")
    differences(zoo, NORMS[:1], KOHYA)
    write_adapter(tmp_path / "out.safetensors", read_adapter(zoo.write(tmp_path)))
    low_rank = ["lora_A.weight", "lora_B.weight", "alpha"]
    expected = {
        "layers.0.attention.to_out.0": low_rank,
        "t_embedder.mlp.2": low_rank,
        "layers.0.feed_forward.w1": ["lokr_w1", "lokr_w2", "alpha"],
        "layers.0.feed_forward.w2": ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "alpha"],
        "layers.0.feed_forward.w3": ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"],
        "layers.1.feed_forward.w1": [*low_rank, "dora_scale"],
        "layers.0.attention.norm_q": ["diff"],
    }
    keys = {f"diffusion_model.{name}.{part}" for name, parts in expected.items() for part in parts}
    assert load_file(tmp_path / "out.safetensors").keys() == keys


PLAIN = {
    "mixed ranks and alphas, kohya": ("comfyui", "diffusers"),
    "diffusers, rank-stabilised": ("comfyui", "diffusers"),
    "every linear": ("comfyui", "diffusers"),
    "original names": ("comfyui", "diffusers"),
    "kohya fused alpha": ("comfyui", "diffusers"),
    "fp8 e4m3": ("comfyui", "diffusers"),
    "lokr SDA": ("comfyui",),
    "lokr w2 a product": ("comfyui", "diffusers"),
    "loha lycoris": ("diffusers",),
    "dora kohya": ("diffusers",),
    "dora fused": ("diffusers",),
}


@pytest.mark.parametrize(("name", "layout"), [(name, layout) for name, layouts in PLAIN.items() for layout in layouts])
def test_plain_diffusers_does_the_same(
    transformer: ZImageTransformer2DModel, zoo: Zoo, tmp_path: Path, name: str, layout: str
) -> None:
    VARIANTS[name](zoo)
    adapter = read_adapter(zoo.write(tmp_path))
    write_adapter(tmp_path / "out.safetensors", adapter, layout)
    stack = apply_adapters(transformer, [(adapter, 1.0, 1, 0)])
    ours = velocity(transformer)
    stack.remove()
    theirs = copy.deepcopy(transformer)
    pipeline = ZImagePipeline(scheduler=None, vae=None, text_encoder=None, tokenizer=None, transformer=theirs)
    pipeline.load_lora_weights(tmp_path / "out.safetensors")
    torch.testing.assert_close(velocity(theirs), ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"), [("lokr SDA", "cannot hold the LoKr"), ("norms", "difference"), ("biases", "biases"),
                        ("dora kohya by columns", "DoRA"), ("every kind in one file", "cannot hold")]
)  # fmt: skip
def test_what_diffusers_cannot_hold_is_refused(zoo: Zoo, tmp_path: Path, name: str, words: str) -> None:
    VARIANTS[name](zoo)
    with pytest.raises(ZitError, match=words):
        write_adapter(tmp_path / "out.safetensors", read_adapter(zoo.write(tmp_path)), "diffusers")


# ---------------------------------------------------------------- low ranks in place of others


def relative(missed: torch.Tensor, whole: torch.Tensor) -> float:
    return float(missed.norm() / whole.norm())


def test_a_truncated_change_is_the_best_and_tells_its_error() -> None:
    generator = torch.Generator().manual_seed(0)
    kron = Kron((torch.randn(8, 6, generator=generator),), (torch.randn(10, 9, generator=generator),), -0.5)
    shares = [
        LowRank(torch.randn(7, 54, generator=generator), torch.randn(80, 7, generator=generator), s)
        for s in (1.0, -2.0)
    ]
    total = shares[0].delta() + shares[1].delta()
    for whole, fit in (
        (kron.delta(), truncated_kron(kron, 11)),
        (kron.delta(), truncated(kron.delta(), 11)),
        (total, truncated_low_rank(shares, 11)),
    ):
        best = torch.linalg.svdvals(whole)[11:].norm() / whole.norm()
        told = (fit.missed / fit.whole) ** 0.5
        assert told == pytest.approx(relative(fit.share.delta() - whole, whole), rel=1e-3)
        assert told == pytest.approx(float(best), rel=1e-2)  # bf16's rounding on top
        assert fit.share.rank == 11 and fit.share.down.dtype == torch.bfloat16


def test_a_large_change_is_truncated_almost_as_well() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -3, 300)
    left = torch.linalg.qr(torch.randn(1300, 300, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(1100, 300, generator=generator)).Q
    whole = (left * sizes) @ right.T
    fit = truncated(whole, 32)
    assert (fit.missed / fit.whole) ** 0.5 == pytest.approx(float(sizes[32:].norm() / sizes.norm()), rel=0.02)


def test_merging_adds_up_exactly(transformer: ZImageTransformer2DModel, zoo: Zoo, tmp_path: Path) -> None:
    files = []
    for seed in (1, 2):
        one = Zoo(zoo.weights, seed)
        mixed_ranks(one, KOHYA, DOWN_UP) if seed == 1 else lora(one, MAIN + OUTER, COMFY, alpha=2.0)
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        files.append(read_adapter(one.write(folder)))
    stack = apply_adapters(transformer, [(files[0], 0.5, 1, 0), (files[1], -1.5, 1, 0)])
    expected = velocity(transformer)
    stack.remove()
    made = merged([(files[0], 0.5), (files[1], -1.5)])
    write_adapter(tmp_path / "merged.safetensors", made.adapter)
    stack = apply_adapters(transformer, [(read_adapter(tmp_path / "merged.safetensors"), 1.0, 1, 0)])
    torch.testing.assert_close(velocity(transformer), expected, atol=1e-4, rtol=1e-4)
    stack.remove()
    assert made.error == 0


# ---------------------------------------------------------------- the commands


def zit(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    code = main(["lora", *map(str, words), "--json"])
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return {**said, "code": code}


def test_the_commands(
    tiny_model: Path, transformer: ZImageTransformer2DModel, zoo: Zoo, home: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (home / "loras").mkdir(parents=True)
    plain(zoo, lokr(zoo, MAIN, COMFY, 4))
    zoo.tensors["lora_te_layers_0_mlp_up_proj.lora_A.weight"] = torch.ones(2, 2)
    zoo.tensors["diffusion_model.layers.9.attention.to_q.lokr_w1"] = torch.ones(4, 4)
    zoo.tensors["diffusion_model.layers.9.attention.to_q.lokr_w2"] = torch.ones(16, 16)
    zoo.metadata = {"modelspec.trigger_phrase": "pixelstyle", "ss_sd_model_name": "Z-Image", "ss_sd_model_hash": "ab12"}
    style = zoo.write(tmp_path).rename(home / "loras" / "style.safetensors")

    shown = zit(capsys, "inspect", "style", "--model", tiny_model)
    assert shown["code"] == 0 and shown["kinds"] == "LoKr" and shown["layout"] == "ComfyUI"
    assert (shown["trigger"], shown["base"], shown["base_hash"]) == ("pixelstyle", "Z-Image", "ab12")
    assert (
        shown["misfits"] == ["layers.9.attention.to_q"] and len(shown["text_encoder"]) == 1 and shown["modules"] == 15
    )

    refused = zit(capsys, "convert", "style", tmp_path / "a.safetensors", "--layout", "diffusers")
    assert refused["code"] == 1 and "--rank" in refused["remedy"] and not (tmp_path / "a.safetensors").exists()
    fitting = zit(capsys, "convert", "style", tmp_path / "fit.safetensors", "--fitting", tiny_model)
    assert fitting["error"] == 0 and len(fitting["left_out"]) == 2
    made = zit(capsys, "convert", tmp_path / "fit.safetensors", tmp_path / "low.safetensors", "--rank", 16)
    low, exact = read_adapter(tmp_path / "low.safetensors"), read_adapter(tmp_path / "fit.safetensors")
    missed = sum(float((low.modules[n].delta() - exact.modules[n].delta()).square().sum()) for n in MAIN)
    whole = sum(float(exact.modules[n].delta().square().sum()) for n in MAIN)
    assert 0 < made["error"] < 1 and made["error"] == pytest.approx((missed / whole) ** 0.5, rel=1e-3)

    merged_into = zit(capsys, "merge", f"{tmp_path / 'fit.safetensors'}@0.5", f"{tmp_path / 'low.safetensors'}@-0.25",
                      "--into", tiny_model, "--out", tmp_path / "model")  # fmt: skip
    assert merged_into["code"] == 0
    stack = apply_adapters(transformer, [(exact, 0.5, 1, 0), (low, -0.25, 1, 0)])
    expected = velocity(transformer)
    stack.remove()
    tuned = ZImageTransformer2DModel.from_pretrained(tmp_path / "model" / "transformer")
    torch.testing.assert_close(velocity(tuned), expected, atol=1e-4, rtol=1e-4)
    assert {f.relative_to(tiny_model) for f in tiny_model.rglob("*")} == {
        f.relative_to(tmp_path / "model") for f in (tmp_path / "model").rglob("*")
    }

    extract = ("extract", tmp_path / "model", "--base", tiny_model, "--out")
    whole_rank = zit(capsys, *extract, tmp_path / "all.safetensors", "--rank", 170)
    assert whole_rank["error"] < 0.01  # bf16
    few = zit(capsys, *extract, tmp_path / "few.safetensors", "--rank", 4)
    assert whole_rank["error"] < few["error"] < 1 and few["modules"] == 14
    again = zit(capsys, *extract, tmp_path / "few.safetensors", "--rank", 4)
    assert again["code"] == 1 and "exists already" in again["error"]
    equal = zit(capsys, "extract", tiny_model, "--base", tiny_model, "--out", tmp_path / "none.safetensors")
    assert equal["code"] == 1 and "do not differ" in equal["error"]
    with safe_open(tmp_path / "few.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "4"
    assert style.is_file()


def test_inspect_speaks_to_people(zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed_ranks(zoo, KOHYA, DOWN_UP)
    assert main(["lora", "inspect", str(zoo.write(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert re.search(r"LoRA in kohya's layout, 14 modules", said) and "ranks      1, 4, 6" in said
    assert "2 × layers.attention.to_q" in said


def test_a_dora_needs_its_base_to_become_a_lora(tiny_model: Path, zoo: Zoo, home: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    dora(zoo, lora_changes(zoo, MAIN, KOHYA, DOWN_UP, 2.0), KOHYA, ".dora_scale")
    path = zoo.write(tmp_path)
    refused = zit(capsys, "convert", path, tmp_path / "l.safetensors", "--rank", 64)
    assert refused["code"] == 1 and "--model" in refused["remedy"]
    made = zit(capsys, "convert", path, tmp_path / "l.safetensors", "--rank", 170, "--model", tiny_model)
    assert made["error"] < 0.01
    changes = read_adapter(tmp_path / "l.safetensors").modules
    for name in MAIN:
        expected = zoo.after[f"{name}.weight"] - zoo.weight(name)
        assert relative(changes[name].delta() - expected, expected) < 0.01
