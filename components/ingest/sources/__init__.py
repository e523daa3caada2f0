"""Finding and reading the images of a source: folders, archives, manifests, URLs, TFDS."""
