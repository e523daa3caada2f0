"""What each step of the pipeline does; knows nothing of the orchestrator that runs it."""

import contextlib
import importlib.metadata
import os

# By itself TensorFlow takes oneDNN's convolutions only on CPUs with AVX-512 and newer; on others, too, they are about 1.5 times
# faster here. Set before TensorFlow is first imported; whoever sets it otherwise has his way.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# tensorflow-tpu loads libtpu when it is imported: that takes the TPU, or asks a metadata server for minutes where there is
# none. Only training wants it, and says so in components/train/devices/tpu_runtime.py.
with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    importlib.metadata.version("tensorflow-tpu")
    os.environ.setdefault("TPU_LOAD_LIBRARY", "0")
