"""Where images lie: a path on this machine, or an address that fsspec knows (gs://, s3://, http://, memory:// …)."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import logging
import os
import re
import sys
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from components.common.errors import ConfigError, first_line

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MANIFESTS = (".csv", ".jsonl")
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
# What file systems raise beside OSError. Named, not imported: only those whose library has been loaded can be raised.
REMOTE_ERRORS = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
)
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
# What changes with an object's content, the surest first.
STAMPS = (
    "generation",
    "ETag",
    "etag",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "created",
)


def is_address(location: str) -> bool:
    """Say whether a location is an address for fsspec rather than a path on this machine; file:// is a path."""
    return bool(ADDRESS.match(location)) and not location.startswith("file://")


def local_path(location: str) -> str:
    """Return a location on this machine as a path: file:// is taken off."""
    return unquote(location.removeprefix("file://")) if location.startswith("file://") else location


def suffix_in(location: str, suffixes: tuple[str, ...]) -> bool:
    """Say whether a location ends in one of these suffixes, whatever the case."""
    return PurePosixPath(location.rstrip("/")).name.lower().endswith(suffixes)


def find_filesystem(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    Raises ConfigError when fsspec does not know the address, or lacks the package for it.
    """
    # gcsfs would ask another service of Google about each bucket first, for buckets of kinds that this program does not need.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec.core

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints the trace of what our own sentence tells
    try:
        # Listings that fsspec remembers would hide what has changed, and cost memory.
        filesystem, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
    except ImportError as error:
        raise ConfigError(f'"{address}" needs a package that is not installed: {error}.', _cure(address)) from None
    except remote_errors(ValueError) as error:
        raise ConfigError(f'"{address}" is no address that can be read: {first_line(error)}.', "See fsspec's list.") from None
    return filesystem, str(path)


def _cure(address: str) -> str:
    package = {
        "gs": "gcsfs",
        "gcs": "gcsfs",
        "s3": "s3fs",
        "http": "aiohttp",
        "https": "aiohttp",
        "abfs": "adlfs",
        "az": "adlfs",
    }
    name = package.get(address.partition("://")[0].rpartition("::")[2])
    return f"Install it: pip install {name}." if name else "Install it."


def remote_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return `more` and what reading from an address may raise: OSError, and the errors of the libraries that are loaded."""
    found = [getattr(importlib.import_module(name), error) for name, error in REMOTE_ERRORS if name in sys.modules]
    return (*more, OSError, *found)


def stamp_of(info: dict[str, Any]) -> int:
    """Return a number (63 bits) that changes with the content that fsspec's info tells of; 0 where it tells nothing."""
    key = next((key for key in STAMPS if info.get(key) is not None), None)
    if key is None:
        return 0
    value = info[key]
    if isinstance(value, datetime.datetime):  # the same time may come as a number in a listing
        value = value.timestamp()
    return int.from_bytes(hashlib.blake2b(f"{key}={value}".encode(), digest_size=8).digest(), "big") >> 1


def size_of(info: dict[str, Any]) -> int:
    """Return the size in bytes that fsspec's info tells; -1 where it tells none."""
    size = info.get("size")
    return -1 if size is None else int(size)
