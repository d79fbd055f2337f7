"""What the trainers' own libraries save does here what it did there: peft, and LyCORIS where it is installed."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.models.transformers.transformer_z_image import ZImageTransformer2DModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import save_file

from tests.adapter_zoo import MAIN, OUTER
from tests.test_adapter_layouts import velocity
from zit_app.core.library import find_adapter
from zit_app.model.adapter_files import read_adapter
from zit_app.model.adapter_stack import apply_adapters

TARGETS = [*MAIN, *OUTER]
CONFIGS = {
    "lora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS),
    "patterns": LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, rank_pattern={"to_q": 7}, alpha_pattern={"to_q": 3, "w1": 1}
    ),
    "rank-stabilised": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_rslora=True),
    "biases": LoraConfig(r=4, lora_alpha=2, target_modules=OUTER, lora_bias=True),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, use_dora=True),
    "lokr": LoKrConfig(r=64, alpha=32, target_modules=MAIN),
    "lokr, products": LoKrConfig(r=2, alpha=3, target_modules=MAIN, decompose_both=True, decompose_factor=8),
    "loha": LoHaConfig(r=3, alpha=2, target_modules=MAIN),
}


@pytest.fixture
def transformer(tiny_pipeline: ZImagePipeline) -> ZImageTransformer2DModel:
    return copy.deepcopy(tiny_pipeline.transformer)


@pytest.mark.parametrize("name", CONFIGS)
def test_peft(transformer: ZImageTransformer2DModel, home: Path, tmp_path: Path, name: str) -> None:
    bare, expected_bare = copy.deepcopy(transformer), velocity(transformer)
    wrapped = get_peft_model(transformer, CONFIGS[name])
    generator = torch.Generator().manual_seed(1)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = velocity(wrapped.base_model.model)
    wrapped.save_pretrained(tmp_path)
    stack = apply_adapters(bare, [(read_adapter(find_adapter(str(tmp_path))), 1.0, 1, 0)])
    torch.testing.assert_close(velocity(bare), expected, atol=1e-4, rtol=1e-4)
    assert (expected - expected_bare).abs().max() > 0.01
    stack.remove()


LYCORIS: dict[str, dict[str, Any]] = {
    "locon": dict(algo="locon", linear_dim=4, linear_alpha=2),
    "dora": dict(algo="locon", linear_dim=4, linear_alpha=2, dora_wd=True),
    "dora by columns": dict(algo="locon", linear_dim=4, linear_alpha=2, dora_wd=True, wd_on_output=False),
    "loha": dict(algo="loha", linear_dim=4, linear_alpha=2),
    "lokr": dict(algo="lokr", linear_dim=100000, linear_alpha=1, factor=8),
    "lokr, products": dict(algo="lokr", linear_dim=2, linear_alpha=1, factor=8, decompose_both=True),
    "lokr, dora": dict(algo="lokr", linear_dim=2, linear_alpha=1, factor=8, dora_wd=True),
    "full": dict(algo="full", linear_dim=4, linear_alpha=1),
}


@pytest.mark.parametrize("name", LYCORIS)
def test_lycoris(transformer: ZImageTransformer2DModel, tmp_path: Path, name: str) -> None:
    lycoris = pytest.importorskip("lycoris.wrapper")
    bare = copy.deepcopy(transformer)
    lycoris.PRESET["main"] = {"enable_conv": False, "target_module": [], "target_name": MAIN}
    network = lycoris.create_lycoris(transformer, 1.0, preset="main", **LYCORIS[name])
    network.apply_to()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = velocity(transformer)
    state = {key: value.detach().clone().contiguous() for key, value in network.state_dict().items()}
    save_file(state, tmp_path / "lycoris.safetensors")
    adapter = read_adapter(tmp_path / "lycoris.safetensors")
    assert sorted(adapter.names) == sorted(MAIN)
    stack = apply_adapters(bare, [(adapter, 1.0, 1, 0)])
    torch.testing.assert_close(velocity(bare), expected, atol=1e-4, rtol=1e-4)
    stack.remove()
