"""Find and read the images of a source: folders, archives, manifests, addresses, TFDS."""
