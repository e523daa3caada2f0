"""Whether a folder is on a mounted bucket, where a second copy of the data costs time and money."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
FUSE = re.compile(r"fuse(\..+)?")  # gcsfuse, s3fs, mountpoint-s3, blobfuse2 …; fuseblk is a local disk


def is_mounted_bucket(path: Path, mounts: Path = MOUNTS) -> bool:
    """Return whether a path, which need not exist, is on a FUSE mount such as /gcs on Vertex AI; False without Linux."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return False
    found = ("", "")
    for line in lines:  # later mounts hide earlier ones
        fields, _, source = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields.split()[4])
        if len(point) >= len(found[0]) and Path(path).absolute().is_relative_to(point):
            found = point, source.split()[0]
    return bool(FUSE.fullmatch(found[1]))
