"""Whether the cost of ingest grows with the work: 10,000, 100,000 and 1,000,000 small images; prints one JSON line.

The images are different PNG files of 16×16 in one archive. Each size runs with one worker process for each core, in a process of
its own. Start-up (an archive with one image) is measured separately and subtracted. `rate_over_smallest` should stay near 1,
`main_mb` and `worker_mb` (peak resident memory of the main process and of the largest worker) below 600, and
`second_run_seconds` (listing and fingerprint, all that a run with an unchanged source needs) below 1 for each 100,000 images.
`near_duplicates` gives the seconds and the memory of comparing that many perceptual hashes: equal, nearly equal, random.

    python benchmarks/ingest_scale.py [--largest 1000000] [--archive tar|zip] [--near-duplicates -1]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 16
CORES = len(os.sched_getaffinity(0))
OPTIONS = (
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--direct_running_mode=multi_processing",
    f"--direct_num_workers={CORES}",
)
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
        coarse = rng.integers(0, 250, (4, 4), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        coarse[0, :4] += np.frombuffer(struct.pack("<L", at), np.uint8) % 6
        yield f"{at % 10}/{at:07d}.png", png(coarse.tobytes())


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


def ingest(source: Path, out: Path, near_duplicates: int) -> dict[str, Any]:
    """Ingest an archive in this process; return seconds, peaks of memory and counts."""
    from components.ingest.config import IngestConfig
    from components.ingest.run import run

    config = IngestConfig(
        source=f"images:{source}",
        image_size=16,
        labels_from_folders=True,
        beam_options=OPTIONS,
        near_duplicates=near_duplicates,
    )
    started = time.perf_counter()
    summary = run(config, out=out)
    seconds = time.perf_counter() - started
    main, workers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": seconds, "main_mb": round(main), "worker_mb": round(workers), "kept": summary.kept}


def second_run(source: Path, out: Path, near_duplicates: int) -> dict[str, Any]:
    """List an archive and compute its fingerprint, in this process."""
    from components.ingest.config import IngestConfig
    from components.ingest.sources.fingerprint import source_fingerprint
    from components.ingest.sources.readers import open_source

    config = IngestConfig(source=f"images:{source}", labels_from_folders=True)
    started = time.perf_counter()
    open_source(config)
    source_fingerprint(config)
    return {
        "seconds": time.perf_counter() - started,
        "main_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


PARTS = {"ingest": ingest, "second_run": second_run}


def child(what: str, source: Path, out: Path, near_duplicates: int) -> dict[str, Any]:
    """Run a part of this file in a new process, whose peak of memory is then its own."""
    command = [sys.executable, __file__, "--child", what, str(source), str(out), str(near_duplicates)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: Path, sizes: list[int], suffix: str, near_duplicates: int) -> dict[str, Any]:
    """Return the figures of all sizes, the smallest first."""
    one, rows = folder / f"one.{suffix}", []
    write_archive(one, 1)
    start = min(child("ingest", one, folder / f"start{attempt}", near_duplicates)["seconds"] for attempt in range(2))
    for size in sizes:
        source, out = folder / f"{size}.{suffix}", folder / f"out{size}"
        write_archive(source, size)
        row = child("ingest", source, out, near_duplicates)
        listed = child("second_run", source, out, near_duplicates)
        source.unlink()
        shutil.rmtree(out)
        rows.append(
            {
                "images": size,
                "kept": row["kept"],
                "images_per_second": round(size / (row["seconds"] - start)),
                "main_mb": row["main_mb"],
                "worker_mb": row["worker_mb"],
                "second_run_seconds": round(listed["seconds"], 2),
                "second_run_seconds_per_100000": round(listed["seconds"] * 100_000 / size, 2),
                "listing_mb": listed["main_mb"],
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    for row in rows:
        row["rate_over_smallest"] = round(row["images_per_second"] / rows[0]["images_per_second"], 3)
    return {"start_seconds": round(start, 1), "sizes": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--archive", choices=("tar", "zip"), default="tar")
    parser.add_argument("--near-duplicates", type=int, default=-1)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, source, out, near_duplicates = arguments.child
        print(json.dumps(PARTS[what](Path(source), Path(out), int(near_duplicates))))
        return
    sizes = [size for size in SIZES if size <= arguments.largest] or [arguments.largest]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), sizes, arguments.archive, arguments.near_duplicates)
    print(
        json.dumps(
            {
                "benchmark": "ingest_scale",
                "archive": arguments.archive,
                "cores": CORES,
                "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
                **figures,
            }
        )
    )


if __name__ == "__main__":
    main()
