"""The steps of the pipeline and the code that they share. Nothing here depends on the orchestrator that runs the steps."""

import contextlib
import importlib.metadata
import os

from components.common.imports import lighten_tensorflow

lighten_tensorflow()

# By default, TensorFlow enables oneDNN's convolutions only on CPUs with AVX-512. On other CPUs they are about 1.5 times faster
# too. The variable must be set before TensorFlow is first imported; an explicit setting wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# On import, tensorflow-tpu loads libtpu, which takes the TPU or, on a machine without one, queries a metadata server for
# minutes. Only training needs libtpu; components/train/devices/tpu_runtime.py enables it.
with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    importlib.metadata.version("tensorflow-tpu")
    os.environ.setdefault("TPU_LOAD_LIBRARY", "0")
