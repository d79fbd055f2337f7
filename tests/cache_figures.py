"""Is a cache flat in memory over 5,000 pictures, and quick when nothing changed? `python -m tests.cache_figures`.

The pictures are small and all different, each with a caption of its own; the embedded model encodes them at 64 pixels.
Linux only: memory is read from /proc.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from PIL import Image

from zit_app.core.progress import Progress

PIXELS = 64
EVERY = 1000  # pictures between two looks at the memory


def make(folder: Path, count: int) -> None:
    """Pictures of three aspects, in noise that no two share, with a sentence each."""
    random = Random(0)
    for i in range(count):
        grain = Image.frombytes("RGB", (8, 8), random.randbytes(192))
        grain.resize(random.choice([(96, 96), (120, 80), (80, 120)])).save(folder / f"{i:05d}.jpg", quality=90)
        words = " ".join(random.choices(("red", "apple", "small", "on a", "table", "cat", "blue", "beside"), k=24))
        (folder / f"{i:05d}.txt").write_text(f"number {i}, {words}", encoding="utf-8")


class Watch(Progress):
    """Notes the memory of the process as the work goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[str] = []

    def stage(self, text: str) -> None:
        super().stage(text)
        self.looks.append(f"{text}:")

    def step(self, done: int, total: int, **figures: float) -> None:
        super().step(done, total, **figures)
        if done == total or done // EVERY > (done - 16) // EVERY:
            self.looks.append(f"{done} {_resident():.0f} MB,")


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def build(folder: Path) -> None:
    """Build the cache in this process; prints seconds, what was built and the memory on the way."""
    begun = time.perf_counter(), time.process_time()
    from zit_app.engine.cache import build_cache

    loaded = time.perf_counter(), time.process_time()
    watch = Watch()
    found = build_cache(folder, "pocket", PIXELS, progress=watch)
    seconds, processor = time.perf_counter() - loaded[0], time.process_time() - loaded[1]
    print(f"{found.summary} {seconds:.1f} s ({processor:.1f} s of processor),", end=" ")
    print(f"after {loaded[0] - begun[0]:.1f} s for the libraries; {_resident():.0f} MB. {' '.join(watch.looks)}")


def main() -> None:
    """Make the set, build its cache, and look at it again, each time in a process of its own."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        build(arguments.build)
        return
    with tempfile.TemporaryDirectory() as work:
        make(Path(work), arguments.count)
        for when in ("first run", "second run"):
            print(when, end=": ", flush=True)
            command = [sys.executable, "-m", "tests.cache_figures", "--build", work]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
