"""Mounted buckets are found in the kernel's list of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.mounts import is_mounted_bucket

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:42 / /gcs rw,nosuid - fuse.gcsfuse gcsfuse rw,user_id=0
31 22 0:43 / /gcsx rw - ext4 /dev/vdb rw
32 30 0:44 / /gcs/local rw - tmpfs tmpfs rw
33 22 0:45 / /mnt/my\040bucket rw master:1 - fuse mountpoint-s3 rw
34 22 0:46 / /mnt/ntfs rw - fuseblk /dev/vdc rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/gcs/bucket/runs", True),
        ("/gcs", True),
        ("/gcsx/runs", False),
        ("/gcs/local/runs", False),
        ("/mnt/my bucket/runs", True),
        ("/mnt/ntfs", False),
        ("/home", False),
    ],
)
def test_a_path_belongs_to_its_innermost_mount(path: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    assert is_mounted_bucket(Path(path), tmp_path / "mountinfo") == expected


def test_without_a_list_of_mounts_nothing_is_one(tmp_path: Path) -> None:
    assert not is_mounted_bucket(tmp_path, tmp_path / "missing")
    assert not is_mounted_bucket(tmp_path)
