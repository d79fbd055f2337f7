"""What torch makes of this machine, asked in a process of its own."""

import json
import subprocess
from typing import Any

# Runs in a process of its own: torch stays out of the app's process, and a driver that crashes takes nothing along.
PROBE = r"""
import importlib.util, json, time
facts = {}
begun = time.perf_counter()
try:
    import torch
    facts.update(version=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip)
    facts["product"] = float((torch.ones(8, 8) @ torch.ones(8, 8)).sum()) == 512.0
    facts["threads"] = torch.get_num_threads()
    facts["seconds"] = time.perf_counter() - begun
    facts["cards"] = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        fact = {"name": card.name, "memory": card.total_memory}
        try:
            a = torch.ones(8, 8, device=f"cuda:{index}", dtype=torch.bfloat16)
            fact["product"] = float((a @ a).sum()) == 512.0
            fact["free"] = torch.cuda.mem_get_info(index)[0]
        except Exception as error:
            fact["error"] = str(error).splitlines()[0]
        facts["cards"].append(fact)
except Exception as error:
    facts["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
if importlib.util.find_spec("torchvision") is not None:
    try:
        import torchvision
        torch.ops.torchvision.nms
        facts["torchvision"] = ""
    except Exception as error:
        facts["torchvision"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps(facts))
"""


def probe(python: str) -> dict[str, Any]:
    """Facts about torch as the interpreter `python` sees it; the key `error` says why there are none."""
    ran = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    try:
        return dict(json.loads(ran.stdout.splitlines()[-1]))
    except (IndexError, ValueError):
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"the process ended with code {ran.returncode}: {last}"}
