"""Containers on a machine without a Docker engine: podman speaking Docker's protocol, and images from a base made on the spot.

No registry of images is asked: the base is Debian's bookworm by mmdebstrap, as facts of this machine allow; what runs in
production is deploy/images on the pinned public base.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "runc", "mmdebstrap")
BASE = "localhost/wgan-test-base:bookworm"
DATA = "localhost/wgan-tpu-pipeline:tested"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"


def missing() -> list[str]:
    """Return the programs that are not here."""
    return [name for name in NEEDED if shutil.which(name) is None]


def configuration() -> str:
    """Return podman's configuration for a machine that may itself be a container: limits as they are, runc, host's network."""
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
    """Serve Docker's protocol by podman; gives the value of DOCKER_HOST. CONTAINERS_CONF is set meanwhile."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:
        file, socket = Path(folder) / "containers.conf", Path(folder) / "podman.sock"
        file.write_text(configuration())
        before = os.environ.get("CONTAINERS_CONF")
        os.environ["CONTAINERS_CONF"] = str(file)
        command = ["podman", "system", "service", "--time=0", f"unix://{socket}"]
        service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while not socket.exists():
                assert service.poll() is None, "podman's service has ended"
                assert time.monotonic() < until, "podman's service does not listen"
                time.sleep(0.1)
            yield f"unix://{socket}"
        finally:
            service.terminate()
            service.wait(30)
            if before is None:
                del os.environ["CONTAINERS_CONF"]
            else:
                os.environ["CONTAINERS_CONF"] = before


def exists(image: str) -> bool:
    """Return whether an image is here."""
    return subprocess.run(["podman", "image", "exists", image], check=False).returncode == 0


def make_base() -> str:
    """Make a small Debian with Python, which trusts whom this machine trusts, unless it is here; return its name."""
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
    """Build deploy/images/data from this checkout; return its name."""
    environment = {**os.environ, "ENGINE": "podman", "TAG": DATA}
    subprocess.run([str(ROOT / "deploy" / "images" / "build"), "data", make_base()], env=environment, check=True)
    return DATA


def make_image(folder: Path, tag: str, *lines: str) -> str:
    """Build an image on the base by more lines of a Containerfile; return its name."""
    (folder / "Containerfile").write_text("\n".join([f"FROM {make_base()}", *lines]) + "\n")
    subprocess.run(["podman", "build", "--quiet", "--tag", tag, str(folder)], check=True, stdout=subprocess.DEVNULL)
    return tag
