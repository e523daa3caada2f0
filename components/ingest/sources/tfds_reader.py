"""Preparing and listing a TensorFlow Datasets name; the only file of this component that imports TensorFlow."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.extractor import ExtractError, UnsafeArchiveError

from components.common.errors import ArtifactError, ConfigError, first_line
from components.common.progress import say
from components.dataset.records import HEADER_BYTES, record_positions
from components.ingest.config import IngestConfig
from components.ingest.sources.chunks import Chunk, ChunkPacker, Reader
from components.ingest.sources.fingerprint import list_manual_dir

FORMATS = ("tfrecord", "array_record")
CATALOG = "See https://www.tensorflow.org/datasets/catalog for the names."


def open_tfds(config: IngestConfig, name: str) -> Reader:
    """Prepare a TFDS dataset (download, check, convert) and return its reader.

    Raises ConfigError when the name, a split or the files of tfds_manual_dir are wrong, when a download is unreachable, and
    when the dataset has no feature `image`.
    """
    builder = find_builder(name, config.tfds_data_dir)
    _prepare(builder, name, config.tfds_manual_dir)
    _refuse_unreadable(builder, name)
    splits = {config.tfds_split: "train" if config.tfds_eval_split else ""}  # "": held out by hash
    if config.tfds_eval_split:
        if config.tfds_eval_split == config.tfds_split:
            raise ConfigError(
                f'ingest.tfds_split and tfds_eval_split are both "{config.tfds_split}": no image would be left to train on.',
                "Name two splits, or leave tfds_eval_split empty.",
            )
        splits[config.tfds_eval_split] = "eval"
    total = sum(_count(builder, name, split) for split in splits)
    label = dict(builder.info.features).get("label")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    labelled = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
    return Reader(total, names, _chunks(builder, splits, bool(labelled)))


def find_builder(name: str, data_dir: str) -> Any:
    """Return the TFDS builder of a dataset. Raises ConfigError if the name, config or version does not exist."""
    try:
        # TFDS itself writes name/config:version
        return tfds.builder(name.replace("@", ":"), data_dir=str(Path(data_dir).expanduser()) if data_dir else None)
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(f'ingest.source = "tfds:{name}": TFDS has no dataset of this name.', CATALOG) from None
    except (ValueError, AssertionError, ImportError) as error:  # no such config or version, or not a valid name
        raise ConfigError(f'ingest.source = "tfds:{name}": TFDS says: {_reason(error)}', CATALOG) from None


def _prepare(builder: Any, name: str, manual_dir: str) -> None:
    if builder.is_prepared():
        return
    folder = Path(manual_dir).expanduser() if manual_dir else None
    _refuse_unreachable(builder, name, folder)
    say(f"Preparing tfds:{name} in {builder.data_dir}, once")
    tfds.disable_progress_bar()
    try:
        # With try_download_gcs TFDS would fetch files that Google prepared; the originals are checked by their SHA-256.
        download = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=download)
    except NonMatchingChecksumError as error:
        match = re.search(r"downloaded to (\S+), has", str(error))
        raise ConfigError(
            f"TFDS rejects {match[1] if match else 'a downloaded file'} for {name}: its SHA-256 differs from the original's.",
            "Replace it with the original.",
        ) from error
    except (OSError, AssertionError, ValueError, TypeError, ImportError, tf.errors.OpError,
            tfds.download.DownloadError, ExtractError, UnsafeArchiveError) as error:  # fmt: skip
        raise ConfigError(f"TFDS cannot prepare {name}: {_reason(error)}", _cure(builder)) from error


def _refuse_unreachable(builder: Any, name: str, folder: Path | None) -> None:
    """Raise ConfigError at once if downloads are unreachable; TFDS itself would retry for three minutes."""
    if folder is not None:
        list_manual_dir(str(folder))
    downloads = Path(builder.data_dir_root) / "downloads"
    if urllib.request.getproxies() or (downloads.is_dir() and any(downloads.iterdir())):
        return  # a proxy would resolve names; earlier downloads may suffice
    needed = {url: info.filename for url, info in (builder.url_infos or {}).items()}
    missing = {url: file for url, file in needed.items() if not (folder and file and (folder / file).exists())}
    hosts = sorted({urlsplit(url).hostname or "" for url in missing} - {""})
    if hosts and not any(_resolves(host) for host in hosts[:3]):
        files = sorted({str(file) for file in missing.values() if file})
        where = f" and {folder} does not contain them" if folder else ""
        raise ConfigError(
            f"TFDS needs {', '.join(files[:4]) or 'files'} for {name}, but {hosts[0]} cannot be reached{where}.",
            _cure(builder),
        )


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _cure(builder: Any) -> str:
    page = f" (see {builder.info.homepage})" if builder.info.homepage else ""
    return f"Put the original files{page} into a folder and name it in ingest.tfds_manual_dir, or connect to the network."


def _refuse_unreadable(builder: Any, name: str) -> None:
    """Raise ConfigError for a dataset without images, or in files of an unsupported format."""
    image, format_ = dict(builder.info.features).get("image"), builder.info.file_format.value
    if not isinstance(image, tfds.features.Image) or np.dtype(image.np_dtype).name not in {"uint8", "uint16"}:
        raise ConfigError(
            f"tfds:{name} has no feature `image` with 8 or 16 bits; it has {', '.join(sorted(builder.info.features))}.",
            "Name a dataset of images.",
        )
    if format_ not in FORMATS:
        raise ConfigError(
            f"tfds:{name} is prepared as {format_} files in {builder.data_dir}; {' and '.join(FORMATS)} can be read.",
            "Name another folder in ingest.tfds_data_dir, so that TFDS prepares it again.",
        )


def _count(builder: Any, name: str, split: str) -> int:
    try:
        return int(builder.info.splits[split].num_examples)
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise ConfigError(
            f'tfds:{name} has no split "{split}": {_reason(error)}', f"Choose from {known} in ingest.tfds_split."
        ) from None


def _chunks(builder: Any, splits: dict[str, str], labelled: bool) -> list[Chunk]:
    chunks: list[Chunk] = []
    for split, forced in splits.items():
        for part in builder.info.splits[split].file_instructions:
            records = _records(builder, Path(part.filename))
            packer = ChunkPacker(builder.info.file_format.value, str(part.filename), forced, labelled)
            end = part.skip + (part.take if part.take >= 0 else len(records) - part.skip)
            if end > len(records):
                raise _cannot_read(builder, f"{part.filename} has {len(records)} records, TFDS wrote at least {end}")
            for number in range(part.skip, end):
                record, length = records[number]
                # The id that TFDS uses: file name and index in the file.
                packer.add(f"{builder.name}/{Path(part.filename).name}__{number}".encode(), length, (record,))
            chunks += packer.reader().chunks
    return chunks


def _records(builder: Any, file: Path) -> list[tuple[int, int]]:
    """Return the offset (ArrayRecord: index) of each record of a prepared file, and its (ArrayRecord: mean) size in bytes."""
    try:
        if builder.info.file_format.value == "tfrecord":
            return [(start - HEADER_BYTES, length) for start, length in record_positions(file).tolist()]
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(file))
        size = file.stat().st_size // max(reader.num_records(), 1)
        return [(number, size) for number in range(reader.num_records())]
    except (ArtifactError, RuntimeError, ValueError, OSError) as error:
        raise _cannot_read(builder, error.problem if isinstance(error, ArtifactError) else _reason(error)) from None


def _cannot_read(builder: Any, problem: str) -> ConfigError:
    return ConfigError(
        f"The prepared TFDS dataset cannot be read: {problem.rstrip('.')}.",
        f"Remove {builder.data_dir}, so that TFDS prepares it again.",
    )


def _reason(error: BaseException) -> str:
    message = re.sub(r'^Failed to construct dataset .*?\}": ', "", str(error) or type(error).__name__)
    return f"{first_line(message).rstrip(': ')}."
