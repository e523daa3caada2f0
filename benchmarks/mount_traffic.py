"""Requests and bytes that each step costs on a bucket that gcsfuse mounts; prints a JSON line, and a table on stderr.

The steps run on Fashion-MNIST (needs Debian's dataset-fashion-mnist and `make engines`). Each step gets a new mount, as on
Vertex AI, where each runs on another machine; so nothing comes from caches of an earlier step. Its inputs are the artifacts
that it reads, its outputs are its artifact, the objects that it leaves in the work folder or the registry, and the checkpoints
that it has removed again. The aims: at most 1.2 bytes for each byte of inputs and outputs, and at most one request for each
object and megabyte of them.

    python benchmarks/mount_traffic.py [--train-images 60000] [--rounds 600] [--calls FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.datasets.fashion_mnist import make_manual_dir  # noqa: E402
from tests.support.mount import mounted  # noqa: E402
from tests.support.servers.bucket_proxy import Traffic  # noqa: E402
from tests.support.servers.object_store import Store, object_store  # noqa: E402

JUDGED = {"model": "train", "evaluation": "evaluate", "validation": "validate"}
STEPS: dict[str, dict[str, str]] = {  # step: argument: folder in the bucket
    "ingest": {},
    "validate": {"dataset": "ingest"},
    "train": {"dataset": "ingest", "validation": "validate", "work-dir": "work"},
    "evaluate": {"dataset": "ingest", "model": "train", "work-dir": "work"},
    "gate": {"registry": "registry", **JUDGED},
    "push": {"registry": "registry", **JUDGED, "verdict": "gate"},
}
LEFT = ("work", "registry")  # folders that steps write to besides their artifact
BYTES_AIM = 1.2


class Size(NamedTuple):
    """Objects and bytes."""

    objects: int
    bytes: int


def config(images: Path, train_images: int, rounds: int) -> str:
    """Return a short training on Fashion-MNIST, with checkpoints, samples and scores on the way."""
    return f"""
[ingest]
source = "tfds:fashion_mnist"
tfds_manual_dir = "{images}"
tfds_split = "train[:{train_images}]"
tfds_eval_split = "test[:{train_images // 6}]"
image_size = 28
channels = 1
[train]
precision = "float32"
rounds = {rounds}
rounds_per_call = 50
checkpoint_every_rounds = {rounds // 6}
sample_every_rounds = {rounds // 3}
global_batch_size = 16
n_critic = 1
generator_channels = 8
critic_channels = 8
[evaluate]
samples = 1000
real_images = 2000
extractor_epochs = 1
kid_subset_size = 200
[gate]
first_share = 0.0
"""


def objects(store: Store, *folders: str) -> dict[str, int]:
    """Return the size of every object in these folders of the bucket."""
    sizes: dict[str, int] = {}
    for folder in folders:
        sizes |= store.sizes(f"{folder}/")
    return {name: size for name, size in sizes.items() if not name.endswith("/")}


def removed_checkpoints(traffic: Traffic) -> dict[str, int]:
    """Return the size of every object of a checkpoint that was uploaded."""
    uploads = (call for call in traffic.calls if call[0] in ("insert", "part") and "/round-" in call[1])
    sizes: Counter[str] = Counter()
    for _, name, status, up, _ in uploads:
        if status == 200 and re.search(r"/round-\d+/[^.]", name):
            sizes[name] += up
    return dict(sizes)


def run_step(step: str, store: Store, local: Path) -> Traffic:
    """Run a step on a new mount, unmount, and return what passed."""
    with mounted(store.url, local / f"mount-{step}") as mount:
        store.proxy.traffic()
        command = [sys.executable, "-m", f"components.{step}", "--config", str(local / "config.toml")]
        command += [word for name, folder in STEPS[step].items() for word in (f"--{name}", str(mount.folder / folder))]
        subprocess.run([*command, "--out", str(mount.folder / step)], cwd=ROOT, check=True, stdout=sys.stderr)
    return store.proxy.traffic()


def measure(step: str, store: Store, local: Path, calls: Path | None) -> dict[str, object]:
    """Run a step; return its row."""
    before = objects(store, *LEFT)
    traffic = run_step(step, store, local)
    left = {name: size for name, size in objects(store, *LEFT).items() if before.get(name) != size}
    artifact = removed_checkpoints(traffic) | objects(store, step) | left
    inputs = objects(store, *(folder for folder in STEPS[step].values() if folder not in LEFT))
    down, up = (Size(len(found), sum(found.values())) for found in (inputs, artifact))
    if calls:
        with calls.open("a") as stream:
            stream.writelines("\t".join(map(str, (step, *call))) + "\n" for call in traffic.calls)
    passed, needed = traffic.bytes_down + traffic.bytes_up, down.bytes + up.bytes
    allowed = down.objects + up.objects + needed // 1_000_000
    return {
        "inputs_mb": round(down.bytes / 1e6, 2),
        "outputs_mb": round(up.bytes / 1e6, 2),
        "down_mb": round(traffic.bytes_down / 1e6, 2),
        "up_mb": round(traffic.bytes_up / 1e6, 2),
        "bytes_ratio": round(passed / needed, 2),
        "objects": down.objects + up.objects,
        "requests": sum(traffic.requests.values()),
        "requests_ratio": round(sum(traffic.requests.values()) / allowed, 2),
        "operations": dict(Counter(traffic.requests).most_common()),
    }


def print_table(rows: dict[str, dict[str, object]]) -> None:
    """Print the rows on stderr."""
    columns = [name for name in next(iter(rows.values())) if name != "operations"]
    widths = [max(len(name), 9) for name in columns]
    print("step      ", *(name.rjust(width) for name, width in zip(columns, widths, strict=True)), file=sys.stderr)
    for step, row in rows.items():
        values = (str(row[name]).rjust(width) for name, width in zip(columns, widths, strict=True))
        print(f"{step:<10}", *values, "", json.dumps(row["operations"]), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-images", type=int, default=60000)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--calls", type=Path, help="file for all requests: step, operation, object, status, bytes up and down")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, object_store() as store:
        local = Path(folder)
        images = make_manual_dir(local / "fashion-mnist")
        (local / "config.toml").write_text(config(images, arguments.train_images, arguments.rounds))
        rows = {step: measure(step, store, local, arguments.calls) for step in STEPS}
    print_table(rows)
    over = [step for step, row in rows.items() if float(str(row["bytes_ratio"])) > BYTES_AIM]
    print(json.dumps({"benchmark": "mount_traffic", "bytes_aim": BYTES_AIM, "over": over, "steps": rows}))


if __name__ == "__main__":
    main()
