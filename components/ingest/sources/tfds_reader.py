"""Reads a TensorFlow Datasets name; the only file of this component that imports TensorFlow."""

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

from components.common.errors import ArtifactError, ConfigError
from components.common.progress import say
from components.dataset.records import HEADER_BYTES, record_positions
from components.ingest.config import IngestConfig
from components.ingest.sources.chunks import Chunk, ChunkPacker, Reader
from components.ingest.sources.fingerprint import list_manual_dir

FORMATS = ("tfrecord", "array_record")
CATALOG = "See https://www.tensorflow.org/datasets/catalog for the names."


def open_tfds(config: IngestConfig, name: str) -> Reader:
    """Prepare a TFDS dataset (download, check, convert) and return its reader.

    Raises ConfigError when the name, a split or the files of tfds_manual_dir are wrong, when what must be downloaded is
    out of reach, and when the dataset has no feature `image`.
    """
    builder = find_builder(name, config.tfds_data_dir)
    _prepare(builder, name, config.tfds_manual_dir)
    features = dict(builder.info.features)
    _refuse_without_images(features, name)
    _refuse_other_formats(builder, name)
    splits = {config.tfds_split: "train" if config.tfds_eval_split else ""}  # "": held out by hash
    if config.tfds_eval_split:
        if config.tfds_eval_split == config.tfds_split:
            raise ConfigError(
                f'ingest.tfds_split and tfds_eval_split are both "{config.tfds_split}": nothing would be left to train on.',
                "Name two splits, or leave tfds_eval_split empty.",
            )
        splits[config.tfds_eval_split] = "eval"
    total = sum(_count(builder, name, split) for split in splits)
    label = features.get("label")
    names = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else ()
    labelled = label is not None and label.shape == () and np.issubdtype(label.np_dtype, np.integer)
    return Reader(total, names, _chunks(builder, splits, bool(labelled)))


def find_builder(name: str, data_dir: str) -> Any:
    """Return TFDS's builder of a dataset. Raises ConfigError when there is none of that name, config or version."""
    try:
        # TFDS itself writes name/config:version
        return tfds.builder(name.replace("@", ":"), data_dir=str(Path(data_dir).expanduser()) if data_dir else None)
    except tfds.core.DatasetNotFoundError:
        raise ConfigError(f'ingest.source = "tfds:{name}": TFDS has no dataset of this name.', CATALOG) from None
    except (ValueError, AssertionError, ImportError) as error:  # no such config or version, or not a name at all
        raise ConfigError(f'ingest.source = "tfds:{name}": TFDS says: {_words(error)}', CATALOG) from None


def _prepare(builder: Any, name: str, manual_dir: str) -> None:
    if builder.is_prepared():
        return
    folder = Path(manual_dir).expanduser() if manual_dir else None
    _refuse_unreachable(builder, name, folder)
    say(f"Preparing tfds:{name} in {builder.data_dir}, once")
    tfds.disable_progress_bar()
    try:
        # With try_download_gcs TFDS would fetch what Google prepared; the originals are checked by their sha256.
        download = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
        with contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(download_config=download)
    except NonMatchingChecksumError as error:
        found = re.search(r"downloaded to (\S+), has", str(error))
        file = found[1] if found else "what was downloaded"
        raise ConfigError(
            f"TFDS refuses {file} for {name}: its sha256 is not the one of the original.", "Put the original there."
        ) from error
    except (OSError, AssertionError, ValueError, TypeError, ImportError, tf.errors.OpError,
            tfds.download.DownloadError, ExtractError, UnsafeArchiveError) as error:  # fmt: skip
        raise ConfigError(f"TFDS cannot prepare {name}: {_words(error)}", _cure(builder)) from error


def _refuse_unreachable(builder: Any, name: str, folder: Path | None) -> None:
    """Say at once what TFDS says after three minutes of retries: that what it must download is out of reach."""
    if folder is not None:
        list_manual_dir(str(folder))
    downloads = Path(builder.data_dir_root) / "downloads"
    if urllib.request.getproxies() or (downloads.is_dir() and any(downloads.iterdir())):
        return  # a proxy resolves names for us; earlier downloads may be all that is needed
    needed = {url: info.filename for url, info in (builder.url_infos or {}).items()}
    missing = {url: file for url, file in needed.items() if not (folder and file and (folder / file).exists())}
    hosts = sorted({urlsplit(url).hostname or "" for url in missing} - {""})
    if hosts and not any(_resolves(host) for host in hosts[:3]):
        files = sorted({str(file) for file in missing.values() if file})
        where = f" and is not in {folder}" if folder else ""
        raise ConfigError(
            f"TFDS needs {', '.join(files[:4]) or 'files'} for {name}, which lies on {hosts[0]}, out of reach{where}.",
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
    return f"Put the original files{page} into a folder and name it in ingest.tfds_manual_dir, or go online."


def _refuse_without_images(features: Any, name: str) -> None:
    image = features.get("image")
    if not isinstance(image, tfds.features.Image) or np.dtype(image.np_dtype).name not in {"uint8", "uint16"}:
        raise ConfigError(
            f"tfds:{name} has no feature `image` of 8 or 16 bits; it has {', '.join(sorted(features))}.",
            "Name a dataset of images.",
        )


def _count(builder: Any, name: str, split: str) -> int:
    try:
        return int(builder.info.splits[split].num_examples)
    except (ValueError, KeyError) as error:
        known = ", ".join(sorted(builder.info.splits))
        raise ConfigError(
            f'tfds:{name} has no split "{split}": {_words(error)}', f"Choose from {known} in ingest.tfds_split."
        ) from None


def _refuse_other_formats(builder: Any, name: str) -> None:
    found = builder.info.file_format.value
    if found not in FORMATS:
        raise ConfigError(
            f"tfds:{name} is prepared as {found} files in {builder.data_dir}; {' and '.join(FORMATS)} can be read.",
            "Name another folder in ingest.tfds_data_dir, so that TFDS prepares it anew.",
        )


def _chunks(builder: Any, splits: dict[str, str], labelled: bool) -> list[Chunk]:
    chunks: list[Chunk] = []
    for split, forced in splits.items():
        for part in builder.info.splits[split].file_instructions:
            places = _places(builder, Path(part.filename))
            packer = ChunkPacker(builder.info.file_format.value, str(part.filename), forced, labelled)
            end = part.skip + (part.take if part.take >= 0 else len(places) - part.skip)
            if end > len(places):
                raise _cannot_read(builder, f"{part.filename} holds {len(places)} records, TFDS wrote {end} or more")
            for number in range(part.skip, end):
                place, length = places[number]
                # The id is the one that TFDS itself gives: file name and number in the file.
                packer.add(f"{builder.name}/{Path(part.filename).name}__{number}".encode(), length, (place,))
            chunks += packer.reader().chunks
    return chunks


def _places(builder: Any, file: Path) -> list[tuple[int, int]]:
    """Return where each record of a prepared file is found, and its length in bytes (0: not known)."""
    try:
        if builder.info.file_format.value == "tfrecord":
            return [(start - HEADER_BYTES, length) for start, length in record_positions(file).tolist()]
        from array_record.python.array_record_module import ArrayRecordReader

        reader = ArrayRecordReader(str(file))
        size = file.stat().st_size // max(reader.num_records(), 1)
        return [(number, size) for number in range(reader.num_records())]
    except (ArtifactError, RuntimeError, ValueError, OSError) as error:
        raise _cannot_read(builder, error.problem if isinstance(error, ArtifactError) else _words(error)) from None


def _cannot_read(builder: Any, problem: str) -> ConfigError:
    return ConfigError(
        f"What TFDS has prepared cannot be read: {problem.rstrip('.')}.",
        f"Remove {builder.data_dir}, so that TFDS prepares it anew.",
    )


def _words(error: BaseException) -> str:
    lines = (str(error).strip() or type(error).__name__).splitlines()
    text = re.sub(r'^Failed to construct dataset .*?\}": ', "", lines[0])
    return f"{text[:200].rstrip('.: ')}."
