"""Locations of files: a path on this machine, or a URL that fsspec can open (gs://, s3://, http://, memory:// …)."""

from __future__ import annotations

import datetime
import hashlib
import importlib
import logging
import os
import re
import sys
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote

from components.common.errors import ConfigError, first_line

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
MANIFESTS = (".csv", ".jsonl")
OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
# What remote file systems raise besides OSError. By name, because only a library that is already imported can raise.
REMOTE_ERRORS = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("google.api_core.exceptions", "GoogleAPIError"),
)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
# Keys of fsspec's info that change when the content changes, the most reliable first.
VERSION_KEYS = (
    "generation", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created",
)  # fmt: skip


def is_address(location: str) -> bool:
    """Return whether a location is a URL for fsspec. A path on this machine is not, nor is a file:// URL."""
    return bool(URL.match(location)) and not location.startswith("file://")


def local_path(location: str) -> str:
    """Return the path of a location on this machine, which may be a file:// URL."""
    return unquote(location.removeprefix("file://")) if location.startswith("file://") else location


def joined(location: PurePath | str, *names: str) -> str:
    """Return the location of a folder or file in a folder, which may be a URL."""
    return "/".join([str(location).rstrip("/"), *names]) if names else str(location)


def suffix_in(location: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a location ends in one of these suffixes, in upper or lower case."""
    return PurePosixPath(location.rstrip("/")).name.lower().endswith(suffixes)


def find_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it.

    Raises ConfigError when fsspec does not support the URL or needs a package that is not installed.
    """
    # By default gcsfs calls a second Google service for each bucket, to detect bucket types that this program does not use.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec.core

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that this program reports itself
    try:
        # fsspec's listings cache would hide changes, and take memory.
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        # fsspec's message names the package.
        raise ConfigError(f'"{url}" needs a package that is not installed: {first_line(error)}.') from None
    except remote_errors(ValueError) as error:
        raise ConfigError(f'"{url}" cannot be opened: {first_line(error)}.', "Use a URL that fsspec supports.") from None
    return filesystem, str(path)


def remote_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Return the exceptions that reading a URL can raise: `more`, OSError and those of the libraries that are imported."""
    libraries = [getattr(importlib.import_module(name), error) for name, error in REMOTE_ERRORS if name in sys.modules]
    return (*more, OSError, *libraries)


def stamp_of(info: dict[str, Any]) -> int:
    """Return a number (63 bits) that changes with the content of a file, from fsspec's info; 0 if the info has no version."""
    key = next((key for key in VERSION_KEYS if info.get(key) is not None), None)
    if key is None:
        return 0
    value = info[key]
    if isinstance(value, datetime.datetime):  # a listing may give the same time as a number
        value = value.timestamp()
    return int.from_bytes(hashlib.blake2b(f"{key}={value}".encode(), digest_size=8).digest(), "big") >> 1


def size_of(info: dict[str, Any]) -> int:
    """Return the size of a file in bytes from fsspec's info; -1 if the info has no size."""
    size = info.get("size")
    return -1 if size is None else int(size)
