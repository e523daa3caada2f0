"""What each step of the pipeline does; knows nothing of the orchestrator that runs it."""

import os

# By itself TensorFlow takes oneDNN's convolutions only on CPUs with AVX-512 and newer; on others, too, they are about 1.5 times
# faster here. Set before TensorFlow is first imported; whoever sets it otherwise has his way.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
