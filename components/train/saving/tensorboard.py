"""What TensorFlow writes itself: its refusals become errors of ours, and TensorBoard's events."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from components.common.errors import ArtifactError


@contextlib.contextmanager
def written_by_tensorflow(path: Path) -> Iterator[None]:
    """Turn TensorFlow's error for a full or read-only disk into ArtifactError. For code that only writes `path`."""
    try:
        yield
    except tf.errors.OpError as error:  # "{{node …}} FILE; No space left on device [Op:SaveV2]\n\tFailed to flush 6 events …"
        why = error.message.splitlines()[0].rsplit("; ", 1)[-1].split(" [Op:")[0]
        raise ArtifactError(
            f"Cannot write {path}: {why}.", "Free space or name a writable folder, for instance --set run.dir=DIR."
        ) from error


def vertex_folders(environment: Mapping[str, str]) -> list[Path]:
    """Return where Vertex AI's TensorBoard reads events, if the job has one: its bucket is mounted under /gcs."""
    place = environment.get("AIP_TENSORBOARD_LOG_DIR", "")
    return [Path("/gcs") / place.removeprefix("gs://")] if place.startswith("gs://") else []


class Events:
    """TensorBoard's events of a training, in each of `folders`. Every method raises ArtifactError when it cannot write one."""

    def __init__(self, *folders: Path) -> None:
        self._writers = []
        for folder in folders:
            with written_by_tensorflow(folder):
                self._writers.append((folder, tf.summary.create_file_writer(str(folder))))

    def scalars(self, rounds: int, values: Mapping[str, float]) -> None:
        """Write numbers by name."""
        for folder, writer in self._writers:
            with written_by_tensorflow(folder), writer.as_default(step=rounds):
                for name, value in values.items():
                    tf.summary.scalar(name, value)

    def picture(self, rounds: int, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Write an image, uint8 [H, W, C].

        TensorFlow says nothing when the disk refuses one of more than 4 KiB: the next numbers then fail.
        """
        for folder, writer in self._writers:
            with written_by_tensorflow(folder), writer.as_default(step=rounds):
                tf.summary.image(name, image[None])

    def close(self) -> None:
        """Write what is left."""
        for folder, writer in self._writers:
            with written_by_tensorflow(folder):
                writer.close()
