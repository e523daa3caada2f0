"""What differs between a CPU, a GPU and a TPU. The images on TPU chips are in data/on_device.py."""
