"""Whether the cost of ingest grows with the work: 10,000, 100,000 and 1,000,000 small images; prints one JSON line.

The images are different PNG files of 32×32 in one archive. Each size runs with one worker process for each core, in a process
of its own. Start-up (an archive with one image) is measured separately and subtracted.

- `speed_over_smallest` should stay near 1. `cpu_over_smallest` compares processor times, which other programs on the machine
  disturb less.
- `main_mb` and `worker_mb`, peaks of resident memory of the main process and of the largest worker, should stay below 600.
- `second_run_cpu_seconds_per_100000`, for listing and fingerprint, is all that a run with an unchanged source needs, and should
  stay below 1.
- `near_duplicates`: the comparison of as many perceptual hashes, either nearly equal or random; of random ones all are kept.

    python benchmarks/ingest_scale.py [--largest 1000000] [--archive tar|zip]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
CORES = len(os.sched_getaffinity(0))
OPTIONS = (
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=multi_processing",
    f"--direct_num_workers={CORES}",
)
NEAR_BITS = 6
ATTEMPTS = 5  # for figures of a few seconds
SIZES = (10_000, 100_000, 1_000_000)


def png(pixels: bytes) -> bytes:
    """Return a grey PNG file of SIDE × SIDE pixels; Pillow would take longer to write it than ingest takes to read it."""
    rows = b"".join(b"\0" + pixels[start : start + SIDE] for start in range(0, len(pixels), SIDE))
    chunks = (
        (b"IHDR", struct.pack(">2L5B", SIDE, SIDE, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    parts = [struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data)) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def files(count: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents: smooth random images, no two of them equal."""
    rng = np.random.default_rng(0)
    for at in range(count):
        coarse = rng.integers(0, 256, (SIDE // 4, SIDE // 4), np.uint8)
        yield f"{at % 10}/{at:07d}.png", png(coarse.repeat(4, axis=0).repeat(4, axis=1).tobytes())


def write_archive(file: Path, count: int) -> None:
    """Write an archive with `count` images."""
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files(count):
                archive.writestr(zipfile.ZipInfo(name), content)
        return
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files(count):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
            archive.members.clear()  # tarfile keeps them all


def ingest(source: Path, out: Path) -> int:
    from components.ingest.config import IngestConfig
    from components.ingest.run import run

    config = IngestConfig(source=f"images:{source}", image_size=28, labels_from_folders=True, beam_options=OPTIONS)
    return run(config, out=out).kept


def second_run(source: Path, _: Path) -> int:
    from components.ingest.config import IngestConfig
    from components.ingest.sources.fingerprint import source_fingerprint
    from components.ingest.sources.readers import open_source

    config = IngestConfig(source=f"images:{source}", labels_from_folders=True)
    source_fingerprint(config)
    return open_source(config).total


def hashes_compared(kind: Path, count: Path) -> int:
    """Return how many of `count` perceptual hashes are kept: nearly equal ones, of which one is, or random ones."""
    from components.ingest.pixels.near_duplicates import BLOCK, NONE, KeptHashes

    rng = np.random.default_rng(0)
    kept, found = KeptHashes(NEAR_BITS), 0
    for start in range(0, int(count.name), BLOCK):
        size = min(BLOCK, int(count.name) - start)
        hashes = rng.integers(0, 2**64 - 1, size, np.uint64, endpoint=True)
        if kind.name == "nearly_equal":
            hashes = np.uint64(1) << rng.integers(0, 64, size).astype(np.uint64)
        found += int((kept.add(hashes) == NONE).sum())
    return found


PARTS: dict[str, Callable[[Path, Path], int]] = {"ingest": ingest, "second_run": second_run, "hashes": hashes_compared}


def run_child(what: str, *arguments: str) -> None:
    __import__("components.ingest.run")
    started, cpu = time.perf_counter(), cpu_seconds()
    result = PARTS[what](*map(Path, arguments))
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    peaks = [round(resource.getrusage(who).ru_maxrss / 1024) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"result": result, "seconds": seconds, "cpu": cpu, "main_mb": peaks[0], "worker_mb": peaks[1]}))


def cpu_seconds() -> float:
    return sum(os.times()[:4])


def child(what: str, *arguments: object) -> dict[str, Any]:
    """Run a part of this file in a new process, whose peak of memory is then its own."""
    command = [sys.executable, __file__, "--child", what, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: Path, sizes: list[int], suffix: str) -> dict[str, Any]:
    """Return the figures of all sizes, the smallest first."""
    one, rows = folder / f"one.{suffix}", list[dict[str, Any]]()
    write_archive(one, 1)
    starts = [child("ingest", one, folder / f"start{attempt}") for attempt in range(ATTEMPTS)]
    start, start_cpu = (statistics.median(row[name] for row in starts) for name in ("seconds", "cpu"))
    for size in sizes:
        source, out = folder / f"{size}.{suffix}", folder / f"out{size}"
        write_archive(source, size)
        second, row = child("second_run", source, out), measured_ingest(source, out, ATTEMPTS if size <= SIZES[0] else 1)
        source.unlink()
        figures = {
            "images": size,
            "kept": row["result"],
            "images_per_second": round(size / (row["seconds"] - start)),
            "cpu_microseconds_per_image": round((row["cpu"] - start_cpu) / size * 1e6),
            "main_mb": row["main_mb"],
            "worker_mb": row["worker_mb"],
            "second_run_cpu_seconds_per_100000": round(second["cpu"] / size * 1e5, 2),
            "second_run_mb": second["main_mb"],
        }
        print(json.dumps(figures), file=sys.stderr, flush=True)
        rows.append(figures)
    for row in rows:
        row["speed_over_smallest"] = round(row["images_per_second"] / rows[0]["images_per_second"], 3)
        row["cpu_over_smallest"] = round(row["cpu_microseconds_per_image"] / rows[0]["cpu_microseconds_per_image"], 3)
    return {"start_seconds": round(start, 1), "sizes": rows}


def measured_ingest(source: Path, out: Path, attempts: int) -> dict[str, Any]:
    """Return the figures of one ingest, with the medians of several for its times."""
    rows = []
    for _ in range(attempts):
        rows.append(child("ingest", source, out))
        shutil.rmtree(out)
    return rows[0] | {name: statistics.median(row[name] for row in rows) for name in ("seconds", "cpu")}


def near_duplicates(sizes: list[int]) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        for kind in ("nearly_equal", "random"):
            row = child("hashes", kind, size)
            rows.append(
                {"hashes": size, "kind": kind, "kept": row["result"], "cpu_seconds": round(row["cpu"], 2), "mb": row["main_mb"]}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--archive", choices=("tar", "zip"), default="tar")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*arguments.child)
        return
    sizes = [size for size in SIZES if size <= arguments.largest] or [arguments.largest]
    row = {"benchmark": "ingest_scale", "archive": arguments.archive, "cores": CORES, "load": [os.getloadavg()[0]]}
    with tempfile.TemporaryDirectory() as folder:
        row |= measure(Path(folder), sizes, arguments.archive)
    row["near_duplicates"] = near_duplicates(sizes)
    row["load"].append(os.getloadavg()[0])
    print(json.dumps(row))


if __name__ == "__main__":
    main()
