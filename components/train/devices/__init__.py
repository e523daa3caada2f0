"""What differs between a CPU, a GPU and a TPU (and data/on_device.py, which holds the images on TPU chips)."""
