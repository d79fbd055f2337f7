"""Broken and foreign files where an adapter is expected: one sentence each, quickly, and the model stays as it was."""

import copy
import gc
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from safetensors import torch as safetensors

from tests.adapter_zoo import COMFY, DOWN_UP, KOHYA, MAIN, Tensors, Zoo, lora
from tests.test_adapter_layouts import velocity
from zit_app.core.errors import ZitError
from zit_app.core.library import find_adapter
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters

Bad = Callable[[Tensors], bytes]
Q = "diffusion_model.layers.0.attention.to_q"
BAD: dict[str, tuple[str, Bad]] = {}


def bad(name: str, words: str, build: Bad) -> None:
    assert name not in BAD
    BAD[name] = (words, build)


def raw(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def save(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """A whole file; the format has no place for tensors that share their memory."""
    return safetensors.save({key: tensor.clone() for key, tensor in tensors.items()}, metadata)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def with_(**changes: torch.Tensor) -> Bad:
    """A good file with some keys of one layer replaced or added."""
    return lambda good: save({**good, **{f"{Q}.{key.replace('__', '.')}": value for key, value in changes.items()}})


def foreign(*names: str, halves: tuple[str, str] = DOWN_UP) -> Bad:
    """A LoRA of another family."""
    return lambda good: save({name + half: torch.ones(4, 4) for name in names for half in halves})


def cut(keep: float) -> Bad:
    return lambda good: save(good)[: int(len(save(good)) * keep)]


def without(part: str) -> Bad:
    return lambda good: save({key: value for key, value in good.items() if key != f"{Q}.{part}"})


A, B = torch.ones(4, 64), torch.ones(64, 4)

bad("zero bytes", "not a safetensors file", lambda good: b"")
bad("one byte", "not a safetensors file", lambda good: b"\x01")
bad("only zeros", "not a safetensors file", lambda good: bytes(4096))
bad("a web page", "not a safetensors file", lambda good: b"<!DOCTYPE html><html>404</html>")
bad("a picture", "not a safetensors file", lambda good: b"\x89PNG\r\n\x1a\n" + bytes(200))
bad("a GGUF", "not a safetensors file", lambda good: b"GGUF\x03\x00\x00\x00" + bytes(200))
bad("a text", "not a safetensors file", lambda good: "这是一个文本文件，不是权重。".encode())
bad("a pointer of git-lfs", "not a safetensors file", lambda good: b"version https://git-lfs.github.com/spec/v1\n")
bad("a zip, renamed pickle", "is a pickle", lambda good: b"PK\x03\x04\x14\x00\x00\x00" + bytes(300))
bad("a bare pickle", "is a pickle", lambda good: b"\x80\x02}q\x00(X\x05\x00\x00\x00stateq\x01")
for share in (0.001, 0.02, 0.3, 0.999):
    bad(f"cut at {share:.1%}", "cut short", cut(share))
bad("header without end", "cut short", lambda good: struct.pack("<Q", 20_000_000) + b'{"a":')
bad("header longer than any", "not a safetensors file", lambda good: struct.pack("<Q", 1 << 62) + b"{}")
bad("header of no JSON", "not a safetensors file", lambda good: raw(b"not json at all!"))
bad("header of other characters", "not a safetensors file", lambda good: raw(b'{"\xff\xfe": 1}'))
bad("header that is a list", "not a safetensors file", lambda good: raw([1, 2, 3]))
bad("header nested 100,000 deep", "not a safetensors file", lambda good: raw(b"[" * 100_000 + b"]" * 100_000))
bad("header of a huge number", "not a safetensors file", lambda good: raw(b'{"a":' + b"9" * 100_000 + b"}"))
bad(
    "header with infinity",
    "not a safetensors file",
    lambda good: raw(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,Infinity]}}'),
)
bad("entries that are numbers", "not a safetensors file", lambda good: raw({"a": 5}))
bad("entry without offsets", "not a safetensors file", lambda good: raw({"a": {"dtype": "F32", "shape": [1]}}))
bad("metadata of no text", "not a safetensors file", lambda good: raw({"__metadata__": {"a": 1}}))
bad("metadata that is a number", "not a safetensors file", lambda good: raw({"__metadata__": 7}))
bad("a negative size", "not a safetensors file", lambda good: raw({f"{Q}.diff": entry([-1, 4], 0, 16)}, bytes(16)))
bad("nothing in it", "holds no LoRA", lambda good: raw({}))
bad(
    "overlapping tensors",
    "is damaged",
    lambda good: raw(
        {f"{Q}.lora_A.weight": entry([4, 1], 0, 16), f"{Q}.lora_B.weight": entry([4, 1], 8, 24)}, bytes(24)
    ),
)
bad("offsets that say otherwise", "is damaged", lambda good: raw({f"{Q}.diff": entry([64, 64], 0, 16)}, bytes(16)))
bad("an unknown type", "is damaged", lambda good: raw({f"{Q}.diff": entry([4], 0, 16, "F33")}, bytes(16)))
bad("a hole", "is damaged", lambda good: raw({f"{Q}.diff": entry([4], 16, 32)}, bytes(32)))
bad("bytes at the end", "is damaged", lambda good: save(good) + bytes(64))
bad(
    "100,000 keys",
    "holds 100000 tensors",
    lambda good: raw({f"k{i}": entry([1], 4 * i, 4 * i + 4) for i in range(100_000)}, bytes(400_000)),
)

bad("SD 1.5", "Stable Diffusion or SDXL", foreign("lora_unet_down_blocks_0_attentions_0_proj_in"))
bad("SDXL", "Stable Diffusion or SDXL", foreign("lora_unet_input_blocks_4_1_proj_in", "lora_te1_text_model_encoder_l"))
bad("Flux, kohya", "Flux", foreign("lora_unet_double_blocks_0_img_attn_qkv", "lora_unet_single_blocks_3_linear1"))
bad("Flux, diffusers", "Flux", foreign("transformer.single_transformer_blocks.0.attn.to_q"))
bad("Qwen-Image", "Qwen-Image", foreign("transformer_blocks.0.img_mlp.net.0.proj", "transformer_blocks.0.attn.to_q"))
bad("Wan", "video model", foreign("diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.ffn.0"))
bad("SD 3", "Stable Diffusion 3", foreign("lora_unet_joint_blocks_0_x_block_attn_qkv"))
bad("a language model", "a language model", foreign("base_model.model.model.layers.0.self_attn.q_proj"))
bad("text encoder alone", "text encoder alone", foreign("lora_te_layers_0_mlp_up_proj"))
bad("a whole model", "model's own weights", lambda good: save({"layers.0.attention.to_q.weight": torch.ones(8, 8)}))
bad("a textual inversion", "holds no LoRA", lambda good: save({"emb_params": torch.ones(4, 8)}))
bad(
    "Lumina 2, of the same names",
    "trained for another one",
    lambda good: save(
        {f"{Q}{half}": torch.ones(shape) for half, shape in ((".lora_A.weight", (4, 48)), (".lora_B.weight", (48, 4)))}
    ),
)
bad(
    "more layers",
    "1 of the 15 modules",
    lambda good: save({**good, **{k.replace("layers.0", "layers.29"): v for k, v in good.items() if f"{Q}." in k}}),
)
bad(
    "paths as keys",
    "no place for",
    lambda good: save({**good, "../../../etc/passwd.lora_A.weight": A, "C:\\windows\\system32": A}),
)
bad(
    "control characters in keys",
    "no place for",
    lambda good: save({**good, "\x1b[2J\r\nrm -rf /\x00": A}),
)
bad("a key of a megabyte", "no place for", lambda good: save({**good, "layers." * 150_000: A}))
bad("an unknown part", "no place for", with_(mystery=A))

bad("NaN", "NaN or infinity", with_(lora_A__weight=torch.full((4, 64), torch.nan)))
bad(
    "one infinity",
    "NaN or infinity",
    with_(lora_B__weight=torch.where(torch.arange(256).view(64, 4) == 7, torch.inf, 1.0)),
)
bad("bf16 NaN", "NaN or infinity", with_(lora_A__weight=torch.full((4, 64), torch.nan, dtype=torch.bfloat16)))
bad("fp8 NaN", "NaN or infinity", with_(lora_A__weight=torch.full((4, 64), torch.nan).to(torch.float8_e4m3fn)))
bad("rank 0", "rank 0", with_(lora_A__weight=torch.ones(0, 64), lora_B__weight=torch.ones(64, 0)))
bad("whole numbers", "stores .* as int8", with_(lora_A__weight=torch.ones(4, 64, dtype=torch.int8)))
bad("truth values", "stores .* as bool", with_(lora_A__weight=torch.ones(4, 64, dtype=torch.bool)))
bad("64-bit whole numbers", "stores .* as int64", with_(lora_B__weight=torch.ones(64, 4, dtype=torch.int64)))
bad("ranks that differ", "ranks 4 and 5", with_(lora_B__weight=torch.ones(64, 5)))
bad("a vector", "not a matrix", with_(lora_A__weight=torch.ones(64)))
bad("a number for a matrix", "not a matrix", with_(lora_A__weight=torch.tensor(1.0)))
bad("a convolution", "not a matrix", with_(lora_A__weight=torch.ones(4, 64, 3, 3)))
bad("down without up", "lacks its part 'up'", without("lora_B.weight"))
bad("up without down", "lacks its part 'down'", without("lora_A.weight"))
bad(
    "alpha alone",
    "lacks its part",
    lambda good: save({k: v for k, v in good.items() if f"{Q}." not in k or "alpha" in k}),
)
bad("alpha NaN", "no usable alpha", with_(alpha=torch.tensor(torch.nan)))
bad("alpha 0", "no usable alpha", with_(alpha=torch.tensor(0.0)))
bad("alpha of many", "no usable alpha", with_(alpha=torch.ones(3)))
bad("transposed halves", "fit", with_(lora_A__weight=B, lora_B__weight=A))
bad("the same layer twice", "twice", lambda good: save({**good, KOHYA(MAIN[0]) + ".lora_down.weight": A}))
bad(
    "two ways at once",
    "in two ways at once",
    lambda good: save(
        {**good, "layers.0.attention.qkv.lora_A.weight": A, "layers.0.attention.qkv.lora_B.weight": torch.ones(192, 4)}
    ),
)
bad(
    "fused of an odd size",
    "of the same size",
    lambda good: save(
        {"layers.0.attention.qkv.lora_A.weight": A, "layers.0.attention.qkv.lora_B.weight": torch.ones(191, 4)}
    ),
)
bad("LoKr without w2", "lacks its part 'lokr_w2_a'", lambda good: save({f"{Q}.lokr_w1": torch.ones(8, 8)}))
bad(
    "LoKr whole and in parts",
    "whole and as a product",
    lambda good: save({f"{Q}.{part}": torch.ones(8, 8) for part in ("lokr_w1", "lokr_w1_a", "lokr_w2")}),
)
bad(
    "LoKr of another size",
    "trained for another one",
    lambda good: save({f"{Q}.lokr_w1": torch.ones(8, 8), f"{Q}.lokr_w2": torch.ones(9, 8)}),
)
bad(
    "LoHa of two sizes",
    "two products of different size",
    lambda good: save(
        {f"{Q}.hada_w1_a": B, f"{Q}.hada_w1_b": A, f"{Q}.hada_w2_a": torch.ones(60, 4), f"{Q}.hada_w2_b": A}
    ),
)
bad("DoRA of another size", "magnitudes", with_(dora_scale=torch.ones(63, 1)))
bad("a bias where there is none of it", "fit", lambda good: save({**good, f"{Q}.diff_b": torch.ones(7)}))
bad(
    "a note of alpha that is none",
    "what it notes about alpha",
    lambda good: save(
        {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}, {"lora_adapter_metadata": '{"transformer.lora_alpha": "x"}'}
    ),
)


def test_there_are_enough() -> None:
    assert len(BAD) >= 40


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline: ZImagePipeline) -> ZImagePipeline:
    return copy.deepcopy(tiny_pipeline)


@pytest.fixture(scope="module")
def good(pipeline: ZImagePipeline) -> Tensors:
    zoo = Zoo(dict(pipeline.transformer.state_dict()))
    lora(zoo, MAIN, COMFY, alpha=2.0)
    return zoo.tensors


def attempt(pipeline: ZImagePipeline, path: Path) -> None:
    apply_adapters(pipeline.transformer, [(read_adapter(path), 1.0, 1, 0)])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_sentence(
    pipeline: ZImagePipeline, good: Tensors, tmp_path: Path, name: str
) -> None:
    words, build = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(build(dict(good)))
    begun = time.process_time()
    with pytest.raises(ZitError, match=words) as caught:
        attempt(pipeline, path)
    assert time.process_time() - begun < 2  # seconds of this process alone: the machine may be busy
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(caught.value.what) < 400 and caught.value.remedy
    assert str(path) in said


def test_the_model_is_unharmed_and_the_memory_free(pipeline: ZImagePipeline, good: Tensors, tmp_path: Path) -> None:
    path, tensors = tmp_path / "bad.safetensors", -1
    before = velocity(pipeline.transformer)
    for _, build in list(BAD.values())[:1] + list(BAD.values()):
        path.write_bytes(build(dict(good)))
        with pytest.raises(ZitError):
            attempt(pipeline, path)
        if tensors < 0:
            tensors = live_tensors()
    assert live_tensors() <= tensors
    assert torch.equal(velocity(pipeline.transformer), before)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_what_is_no_file_is_refused(home: Path, tmp_path: Path) -> None:
    for given, words in (
        ("none.safetensors", "does not exist"),
        (str(tmp_path), "without an adapter"),
        ("style", "no"),
    ):
        with pytest.raises(ZitError, match=words):
            find_adapter(given)
