"""Ingest compared with simpler programs for the same task, in pairs within one run; prints one JSON line.

small: 60,000 Fashion-MNIST images as PNG files of 28×28 (--images N for fewer)
  plain Beam: one element an image, Pillow, tf.train.Example, WriteToTFRecord, with the faster of its two worker settings
  bare loop: one process for each core, which only reads, decodes, serialises and writes
photos: JPEG files of 500×400 to 64×64 RGB, compared with a pool that only decodes and resizes with Pillow
Start-up (Beam's imports, worker processes, ingesting a folder with one image) is measured separately and subtracted from the
times of the Beam pipelines; the start-up of the pools is not timed. Each ratio is given for wall time and, as cpu_…, for the
processor time of all processes, which other programs on the machine disturb less.

    python benchmarks/ingest.py [--images 60000] [--photos 3000] [--pairs 5]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

LOCAL = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
CORES = len(os.sched_getaffinity(0))
WORKERS = ("--direct_running_mode=multi_processing", f"--direct_num_workers={CORES}")
Times = npt.NDArray[np.float64]  # wall time and processor time in seconds
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def write_small(folder: Path, count: int) -> None:
    """Write `count` PNG files of 28×28: Fashion-MNIST if Debian's package is installed, else digits with a little noise."""
    if FASHION.exists():
        pixels = np.frombuffer(gzip.decompress(FASHION.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    else:
        digits = (load_digits().images * 15).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)[:, 2:30, 2:30]
        rng = np.random.default_rng(0)
        pixels = np.stack([digits[at % len(digits)] ^ rng.integers(0, 2, (28, 28), np.uint8) for at in range(count)])
    for at in range(count):
        label = folder / f"{at % 10}"
        label.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[at % len(pixels)] ^ np.uint8(at // len(pixels))).save(label / f"{at:07d}.png")


def write_photos(folder: Path, count: int) -> None:
    """Write `count` JPEG files of 500×400: shifted and mirrored parts of the two photos of scikit-learn."""
    folder.mkdir(parents=True)
    photos = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    rng = np.random.default_rng(0)
    for at in range(count):
        left, top = int(rng.integers(0, 141)), int(rng.integers(0, 28))
        part = photos[at % 2].crop((left, top, left + 500, top + 400))
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if at % 3 else part
        part.point(lambda level, shift=at % 17: min(255, level + shift)).save(folder / f"{at:05d}.jpg", quality=90)


def ours(source: Path, out: Path, options: tuple[str, ...], **fields: Any) -> None:
    from components.ingest.config import IngestConfig
    from components.ingest.run import run

    run(IngestConfig(source=f"images:{source}", beam_options=options, **fields), out=out)


def plain_beam(source: Path, out: Path, options: tuple[str, ...]) -> None:
    """Run the simplest Beam pipeline for the task."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    out.mkdir(parents=True)
    files = [str(file) for file in sorted(source.rglob("*.png"))]
    with beam.Pipeline(options=PipelineOptions(flags=list(options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(files)
            | beam.Reshuffle()
            | beam.Map(plain_example)
            | beam.io.WriteToTFRecord(str(out / "train"), num_shards=4)
        )


def plain_example(file: str) -> bytes:
    import tensorflow as tf

    pixels = np.asarray(Image.open(file)).tobytes()
    image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels]))
    name = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file.encode()]))
    return bytes(tf.train.Example(features=tf.train.Features(feature={"image": image, "id": name})).SerializeToString())


def bare_part(part: tuple[list[str], str]) -> int:
    from components.dataset.records import encode_pixels, write_tfrecord

    files, out = part
    return write_tfrecord(
        Path(out), (encode_pixels(Image.open(io.BytesIO(Path(file).read_bytes())).tobytes(), 0, file, 28, 28) for file in files)
    )


def resize_part(part: tuple[list[str], str]) -> int:
    for file in part[0]:
        image = Image.open(io.BytesIO(Path(file).read_bytes())).convert("RGB")
        image.crop((50, 0, 450, 400)).resize((64, 64), Image.Resampling.LANCZOS).tobytes()
    return len(part[0])


def processor_seconds() -> float:
    """Return the processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pooled(work: Callable[[tuple[list[str], str]], int], source: Path, out: Path) -> Times:
    """Return the times that a pool of one process for each core takes for all files; in wall time without its start-up."""
    files = [str(file) for file in sorted(source.rglob("*.*"))]
    out.mkdir(parents=True)
    parts = [(files[start : start + 256], str(out / f"{start}.tfrecord")) for start in range(0, len(files), 256)]
    used = processor_seconds()
    with multiprocessing.get_context("fork").Pool(CORES) as pool:
        pool.map(len, [[]] * CORES)
        started = time.perf_counter()
        assert sum(pool.imap_unordered(work, parts)) == len(files)
        seconds = time.perf_counter() - started
        pool.close()
        pool.join()
    return np.array([seconds, processor_seconds() - used])


def child(what: str, *arguments: str) -> dict[str, float]:
    """Run a part of this file in a new process; return its seconds, and the peak memory of the largest process in MB."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", what, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_child(what: str, source: str, out: str) -> None:
    workers = {"1": (LOCAL,), "2": (LOCAL, *WORKERS[:1], "--direct_num_workers=2"), "all": (LOCAL, *WORKERS)}
    kind, _, setting = what.partition("-")
    started = time.perf_counter()
    if kind == "plain":
        plain_beam(Path(source), Path(out), workers[setting])
    elif kind == "photos":
        ours(Path(source), Path(out), workers[setting], image_size=64, channels=3)
    else:
        ours(Path(source), Path(out), workers[setting], image_size=28, labels_from_folders=True)
    seconds = time.perf_counter() - started
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": seconds, "peak_mb": max(peaks)}))


def median(values: list[Times]) -> Times:
    return np.median(values, axis=0)


def named(name: str, pairs: list[Times]) -> dict[str, list[float]]:
    """Return median, lowest and highest of the ratios of pairs, for wall time and for processor time."""
    table = np.round([np.median(pairs, axis=0), np.min(pairs, axis=0), np.max(pairs, axis=0)], 3)
    return {name: table[:, 0].tolist(), f"cpu_{name}": table[:, 1].tolist()}


def measure(folder: Path, images: int, photos: int, pairs: int) -> dict[str, Any]:
    small, few, many, empty = (folder / name for name in ("small", "few", "photos", "one"))
    write_small(small, images)
    write_small(few, max(images // 10, 300))
    write_photos(many, photos)
    write_small(empty, 1)
    attempts = iter(range(10**6))

    def timed(what: str, source: Path) -> Times:
        out = folder / f"out{next(attempts)}"
        used = processor_seconds()
        seconds = child(what, str(source), str(out))["seconds"]
        shutil.rmtree(out)
        return np.array([seconds, processor_seconds() - used])

    def pool(work: Callable[[tuple[list[str], str]], int], source: Path) -> Times:
        out = folder / f"out{next(attempts)}"
        times = pooled(work, source, out)
        shutil.rmtree(out)
        return times

    starts = {what: median([timed(what, empty) for _ in range(3)]) for what in ("ours-1", "ours-2", "ours-all", "plain-1")}
    plain_setting = min(("plain-1", "plain-all"), key=lambda what: float(timed(what, few)[0]))
    start_of_plain = (
        starts["plain-1"] if plain_setting == "plain-1" else median([timed(plain_setting, empty) for _ in range(3)])
    )
    rows: dict[str, list[Times]] = {name: [] for name in ("plain", "whole", "bare", "two", "photos")}
    for _ in range(pairs):
        all_cores = timed("ours-all", small)
        plain = timed(plain_setting, small)
        rows["plain"].append((plain - start_of_plain) / (all_cores - starts["ours-all"]))
        rows["whole"].append(plain / all_cores)
        rows["bare"].append(pool(bare_part, small) / (all_cores - starts["ours-all"]))
        rows["two"].append((timed("ours-1", small) - starts["ours-1"]) / (timed("ours-2", small) - starts["ours-2"]))
        rows["photos"].append((timed("photos-all", many) - starts["ours-all"]) / pool(resize_part, many))
    memory = [child("ours-all", str(source), str(folder / f"out{next(attempts)}"))["peak_mb"] for source in (few, small)]
    return {
        "benchmark": "ingest",
        "images": images,
        "photos": photos,
        "pairs": pairs,
        "cores": CORES,
        **named("ours_over_plain_beam", rows["plain"]),
        **named("ours_over_plain_beam_with_start", rows["whole"]),
        "plain_beam_setting": plain_setting,
        **named("share_of_bare_loop", rows["bare"]),
        **named("two_workers_over_one", rows["two"]),
        **named("photos_time_over_pillow", rows["photos"]),
        "start_seconds": {name: np.round(times, 2).tolist() for name, times in starts.items()},
        "load": os.getloadavg()[0],
        "peak_mb_tenth": round(memory[0]),
        "peak_mb": round(memory[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--photos", type=int, default=3_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_child(*arguments.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.images, arguments.photos, arguments.pairs)))


if __name__ == "__main__":
    main()
