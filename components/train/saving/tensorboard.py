"""TensorBoard events, and the errors that TensorFlow raises when it cannot write a file."""

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
    """Raise ArtifactError when TensorFlow cannot write `path` (a full or read-only disk). Wrap only code that writes it."""
    try:
        yield
    except tf.errors.OpError as error:  # "{{node …}} FILE; No space left on device [Op:SaveV2]\n\tFailed to flush 6 events …"
        reason = error.message.splitlines()[0].rsplit("; ", 1)[-1].split(" [Op:")[0]
        cure = "Free space or name a writable folder, for instance --set run.dir=DIR."
        raise ArtifactError(f"Cannot write {path}: {reason}.", cure) from error


def vertex_folders(environment: Mapping[str, str]) -> list[Path]:
    """Return the folder from which Vertex AI's TensorBoard reads events, if the job has one; buckets are mounted at /gcs."""
    url = environment.get("AIP_TENSORBOARD_LOG_DIR", "")
    return [Path("/gcs") / url.removeprefix("gs://")] if url.startswith("gs://") else []


class Events:
    """Writes the TensorBoard events of a training to each of `folders`. All methods raise ArtifactError if that fails."""

    def __init__(self, *folders: Path) -> None:
        self._writers = []
        for folder in folders:
            with written_by_tensorflow(folder):
                self._writers.append((folder, tf.summary.create_file_writer(str(folder))))

    def scalars(self, rounds: int, values: Mapping[str, float]) -> None:
        """Write named numbers."""
        for folder, writer in self._writers:
            with written_by_tensorflow(folder), writer.as_default(step=rounds):
                for name, value in values.items():
                    tf.summary.scalar(name, value)

    def picture(self, rounds: int, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Write an image, uint8 [H, W, C].

        TensorFlow reports no error if an image over 4 KiB does not fit on the disk; writing the next numbers then fails.
        """
        for folder, writer in self._writers:
            with written_by_tensorflow(folder), writer.as_default(step=rounds):
                tf.summary.image(name, image[None])

    def close(self) -> None:
        """Write the remaining events."""
        for folder, writer in self._writers:
            with written_by_tensorflow(folder):
                writer.close()
