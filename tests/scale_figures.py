"""How long a catalogue of 300,000 pictures takes to list, and how much memory: `python -m tests.scale_figures`.

The entries are small files (links to a few real ones) with one table of captions, categories and groups.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from PIL import Image

LINKS = 30_000  # to one file; file systems allow 65,000


def make(folder: Path, count: int) -> None:
    """A catalogue of `count` pictures in folders of a thousand, four aspects, twenty categories, four views an item."""
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as table:
        for i in range(count):
            shelf = folder / f"shelf{i // 1000:04d}"
            if i % 1000 == 0:
                shelf.mkdir()
            if i % LINKS < 4:
                sizes = ((256, 256), (256, 320), (320, 256), (200, 300))
                Image.new("RGB", sizes[i % 4], (i // LINKS, i % 4, 7)).save(shelf / f"{i:06d}.png")
            else:
                source = i - i % LINKS + i % 4
                os.link(folder / f"shelf{source // 1000:04d}" / f"{source:06d}.png", shelf / f"{i:06d}.png")
            row = {
                "file_name": f"{shelf.name}/{i:06d}.png",
                "caption": f"A long-sleeved shirt number {i} in cotton, with buttons and a pocket, from the front.",
                "category": f"category {i % 20}",
                "group": f"item {i // 4}",
            }
            table.write(json.dumps(row) + "\n")


def look(folder: Path) -> None:
    """List the catalogue and sort it into buckets; prints seconds, processor seconds and the most memory used."""
    from zit_app.data.buckets import bucket_sizes, crop_to_bucket
    from zit_app.data.index import load_known, save_known
    from zit_app.data.pictures import scan_dataset

    begun = time.perf_counter(), time.process_time()
    scan = scan_dataset(folder, load_known(folder), verify=False)
    listed = time.perf_counter(), time.process_time()
    save_known(scan)
    sizes = bucket_sizes(256)
    buckets = Counter(crop_to_bucket(item.size, sizes).size for item in scan.items)
    ended = time.perf_counter(), time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(scan.items)} entries, {len(buckets)} buckets: listed in {listed[0] - begun[0]:.1f} s"
        f" ({listed[1] - begun[1]:.1f} s of processor), buckets and index {ended[0] - listed[0]:.1f} s"
        f" ({ended[1] - listed[1]:.1f} s), {memory:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Make the catalogue and list it twice, each time in a process of its own."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--count", type=int, default=300_000)
    parser.add_argument("--look", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.look:
        look(arguments.look)
        return
    with tempfile.TemporaryDirectory() as work:
        make(Path(work), arguments.count)
        for when in ("first look", "again"):
            print(when, end=": ", flush=True)
            subprocess.run([sys.executable, "-m", "tests.scale_figures", "--look", work], check=True)


if __name__ == "__main__":
    main()
