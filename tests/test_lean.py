"""What libraries leave out while they are imported; `test_cli.py` asks a whole command for it."""

import inspect
import os
import subprocess
import sys

import bitsandbytes
import gradio
import pytest
import torch
from gradio import component_meta

from zit_app.core.paths import PROJECT


def test_gradio_writes_no_stub_files() -> None:
    assert component_meta.create_or_modify_pyi.__module__ == "zit_app.core.lean"
    assert "create_or_modify_pyi(" in inspect.getsource(component_meta.ComponentMeta)  # still what writes them
    with gradio.Blocks():
        box = gradio.Textbox()
        assert box.change(lambda text: text, box) is not None


def test_bitsandbytes_is_whole_and_torch_still_compiles() -> None:
    x = torch.randn(64, 64)
    packed, state = bitsandbytes.functional.quantize_4bit(x, blocksize=64, quant_type="nf4")
    assert (bitsandbytes.functional.dequantize_4bit(packed, state) - x).abs().mean() < 0.1
    assert torch.compile.__module__ == "torch"


def test_what_begins_a_program_is_set_aside_and_nothing_that_comes_later() -> None:
    """In a process of its own: this one has long begun."""
    code = """
import gc
from zit_app.core.lean import importing
with importing():
    first = [[] for _ in range(1000)]
    assert not gc.isenabled()
aside = gc.get_freeze_count()
assert aside > 1000 and gc.isenabled()
with importing():
    second = [[] for _ in range(1000)]
assert gc.get_freeze_count() == aside and gc.isenabled()
try:
    with importing():
        import nothing_of_this_name
except ImportError:
    assert gc.isenabled()
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP along on Linux")
def test_threads_of_torch_wait_without_holding_up_other_programs() -> None:
    code = "from zit_app.core.quiet import quiet; quiet(); import torch"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment["OMP_DISPLAY_ENV"] = "verbose"  # it says what it goes by when it is loaded
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '10000'" in ran.stderr
