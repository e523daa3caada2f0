"""Containers without a Docker engine: podman serves Docker's protocol, and images are built on a base made by mmdebstrap.

No image registry is needed. In production, deploy/images is built on a public base that is pinned by its digest.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import filelock

from tests.support.local_runs import ROOT, wait_for

NEEDED = ("podman", "runc", "mmdebstrap")
BASE = "localhost/wgan-test-base:bookworm"
DATA = "localhost/wgan-tpu-pipeline:tested"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in NEEDED if shutil.which(name) is None]


def configuration() -> str:
    """Return a podman configuration that also works inside a container: unchanged limits, runc, the host's network."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = 65536 if hard == resource.RLIM_INFINITY else hard
    processes = Path("/proc/sys/kernel/pid_max").read_text().strip()
    return f"""[containers]
default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """Serve Docker's protocol with podman; give the value for DOCKER_HOST. Sets CONTAINERS_CONF for the duration."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        file, socket = Path(folder) / "containers.conf", Path(folder) / "podman.sock"
        file.write_text(configuration())
        before = os.environ.get("CONTAINERS_CONF")
        os.environ["CONTAINERS_CONF"] = str(file)
        command = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: socket.exists() or service.poll() is not None, seconds=60)
            assert service.poll() is None, "podman's service has ended"
            yield f"unix://{socket}"
        finally:
            service.terminate()
            service.wait(30)
            if before is None:
                del os.environ["CONTAINERS_CONF"]
            else:
                os.environ["CONTAINERS_CONF"] = before


def exists(image: str) -> bool:
    """Return whether an image exists locally."""
    return subprocess.run(["podman", "image", "exists", image], check=False).returncode == 0


def make_base() -> str:
    """Create a small Debian image with Python and this machine's CA certificates, unless it exists; return its name."""
    if exists(BASE):
        return BASE
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        root = Path(folder) / "root"
        options = ["--variant=minbase", "--mode=root" if os.getuid() == 0 else "--mode=unshare", f"--include={PACKAGES}"]
        subprocess.run(["mmdebstrap", *options, "--quiet", "bookworm", str(root)], check=True)
        if BUNDLE.exists():
            shutil.copy(BUNDLE, root / BUNDLE.relative_to("/"))
        (root / "etc" / "pip.conf").write_text(f"[global]\ncert = {BUNDLE}\n")
        command = ["podman", "import", "--quiet", "--change", f"ENV=SSL_CERT_FILE={BUNDLE}", "-", BASE]
        with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
            subprocess.run(command, stdin=archive.stdout, check=True)
        assert archive.returncode == 0
    return BASE


def make_data_image() -> str:
    """Build deploy/images/data from this checkout; return its name. A second worker waits, and finds its layers."""
    environment = {**os.environ, "ENGINE": "podman", "TAG": DATA}
    with filelock.FileLock(Path(tempfile.gettempdir()) / "wgan-test-image.lock"):
        command = [str(ROOT / "deploy" / "images" / "build"), "data", make_base()]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    lines = done.stdout.splitlines()
    # The first line of this error is all that pytest's summary shows.
    assert done.returncode == 0, f"build data: {lines[-1]} ({free_gib():.0f} GiB free)\n" + "\n".join(lines[-50:])
    return DATA


def free_gib() -> float:
    """Return the free space on the disk of the images."""
    return shutil.disk_usage("/var").free / 2**30


def make_image(folder: Path, tag: str, *lines: str) -> str:
    """Build an image that adds `lines` of a Containerfile to the base; return its name."""
    (folder / "Containerfile").write_text("\n".join([f"FROM {make_base()}", *lines]) + "\n")
    subprocess.run(["podman", "build", "--quiet", "--tag", tag, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return tag
