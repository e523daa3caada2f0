"""Fashion-MNIST without a network: the original files that TFDS expects, made from the Debian package dataset-fashion-mnist.

The files of the package differ from the originals only in the gzip header, which has no name and another time. With the
original header their sha256 is the one that TFDS expects. As a program: `python -m tests.support.datasets.fashion_mnist DIR`,
then set ingest.tfds_manual_dir to DIR.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

PACKAGE = "dataset-fashion-mnist"
BARE_HEADER_BYTES = 10


class Original(NamedTuple):
    """One file as its authors published it: name, modification time in its gzip header, sha256."""

    name: str
    gzip_mtime: int
    sha256: str


ORIGINALS = (
    Original("train-images-idx3-ubyte", 1504176606, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    Original("train-labels-idx1-ubyte", 1504176606, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    Original("t10k-images-idx3-ubyte", 1504176627, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    Original("t10k-labels-idx1-ubyte", 1504176627, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
)


class PackageMissingError(Exception):
    """The Debian package is not installed or has unexpected files."""


def package_files() -> dict[str, Path]:
    """Return the package's gzip files by name. Raises PackageMissingError if it is not installed."""
    cure = f"install it: apt-get install {PACKAGE}"
    try:
        listing = subprocess.run(["dpkg", "-L", PACKAGE], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise PackageMissingError(f"this is not Debian, so the package {PACKAGE} is not available") from None
    except subprocess.CalledProcessError:
        raise PackageMissingError(f"Debian's package {PACKAGE} is not installed; {cure}") from None
    files = {path.name: path for line in listing.splitlines() if (path := Path(line)).suffix == ".gz"}
    for original in ORIGINALS:
        if not files.get(f"{original.name}.gz", Path()).is_file():
            raise PackageMissingError(f"Debian's package {PACKAGE} lacks {original.name}.gz; re{cure}")
    return files


def make_manual_dir(target: Path) -> Path:
    """Write the four original files into `target`, unless they exist, and return `target`.

    Raises PackageMissingError if the package is not installed or its content is not that of the originals.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for original in ORIGINALS:
        file = target / f"{original.name}.gz"
        if not (file.is_file() and _sha256(file.read_bytes()) == original.sha256):
            content = original_bytes(original, package_files()[file.name].read_bytes())
            file.write_bytes(content)
    return target


def original_bytes(original: Original, packaged: bytes) -> bytes:
    """Restore the original header of a packaged gzip file. Raises PackageMissingError if the sha256 does not match."""
    # RFC 1952: magic, deflate, FNAME set, time, no extra flags, Unix, name
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", original.gzip_mtime) + b"\x00\x03" + original.name.encode() + b"\0"
    content = header + packaged[BARE_HEADER_BYTES:]
    if _sha256(content) != original.sha256:
        raise PackageMissingError(f"{original.name}.gz of {PACKAGE} is not the file that its authors published")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Fill the folder that the command line names, and print its path."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to fill with the four files")
    try:
        print(make_manual_dir(parser.parse_args().folder))
    except PackageMissingError as error:
        print(f"fashion_mnist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
