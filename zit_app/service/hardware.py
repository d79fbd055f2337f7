"""What this machine has, asked in milliseconds and without torch: the app's sidebar shows it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from zit_app.core import paths
from zit_app.core.machine import memory_bytes

_MIB = 1 << 20


@dataclass(frozen=True)
class Card:
    """A graphics card and its memory in bytes."""

    index: int
    name: str
    total: int
    used: int


@dataclass(frozen=True)
class Hardware:
    """Memory and disk in bytes; `memory_free` is what programs could still get."""

    cards: tuple[Card, ...]
    memory: int
    memory_free: int
    disk: int
    disk_free: int
    cores: int


def report() -> Hardware:
    """Cards (NVIDIA, through its own tool), memory, the disk of the home folder, processor cores."""
    folder = paths.home()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    return Hardware(_cards(), memory_bytes(), _memory_free(), disk.total, disk.free, os.cpu_count() or 1)


def _cards() -> tuple[Card, ...]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
    except subprocess.TimeoutExpired:  # a driver that hangs must not hang the app
        return ()
    return parse_cards(ran.stdout) if ran.returncode == 0 else ()


def parse_cards(text: str) -> tuple[Card, ...]:
    """nvidia-smi's table, `index, name, total MiB, used MiB` a line; figures a card does not tell are 0."""
    cards = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdigit():
            total, used = (int(part) * _MIB if part.isdigit() else 0 for part in parts[2:])
            cards.append(Card(int(parts[0]), parts[1], total, used))
    return tuple(cards)


def _memory_free() -> int:
    if sys.platform == "win32":
        return _memory_free_on_windows()
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    pages = subprocess.run(["vm_stat"], capture_output=True, text=True, check=False).stdout.splitlines()
    kinds = ("Pages free", "Pages inactive", "Pages speculative")
    counts = [int(line.split(":")[1].strip(" .")) for line in pages if line.startswith(kinds)]
    return sum(counts) * os.sysconf("SC_PAGE_SIZE")


def _memory_free_on_windows() -> int:
    if sys.platform != "win32":
        return 0
    import ctypes

    class MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "free", "page", "page_free", "virtual", "own", "extended")
        ]

    status = MemoryStatus()
    status.length = ctypes.sizeof(MemoryStatus)
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free)
