"""Creates the extractor of a dataset, once: trains the classifier or draws random weights, and caches the result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from components.common.artifacts import MANIFEST, code_digest, digest_of
from components.common.errors import ConfigError
from components.common.lease import leased
from components.common.progress import say, tick
from components.common.store import Store
from components.common.stored_artifacts import new_stored_artifact, open_artifact
from components.dataset.records import NO_LABEL, ImageSet
from components.dataset.stored_images import StoredSet
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import extractor
from components.evaluate.features.external import ExternalExtractor, ExternalSettings
from components.evaluate.features.extractor import AnyExtractor, Extractor, Floats32, Images, Settings

FOLDER = "extractors"
WAIT_SECONDS = 600.0  # for another evaluation that creates the same extractor
SEED = 0  # of initial weights and data order; fixed, so that runs with different evaluate.seed share an extractor
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
# This limits training to about 30 s on 2 cores for any dataset: 200,000 images of 28×28, fewer of larger images.
MAX_PIXELS_SEEN = 200_000 * 28 * 28
SCALE_IMAGES = 5000
MOST_BYTES = 2**29  # of the images for training or testing the classifier: 43,690 of 64×64×3, 684,784 of 28×28

Kind = Literal["classifier", "random"]
Labelled = ImageSet | StoredSet


def kind_for(config: EvaluateConfig, train: Labelled) -> Kind:
    """Return the kind for `config.extractor`; `auto` is the classifier if there are at least two labels.

    Raises ConfigError if the classifier is configured and there are fewer.
    """
    labels = len(np.unique(train.labels[train.labels != NO_LABEL]))
    if config.extractor == "classifier" and labels < 2:
        raise ConfigError(
            f'evaluate.extractor = "classifier" needs images of at least 2 labels; the dataset has {labels}.',
            'Use evaluate.extractor = "random" or "auto".',
        )
    return "random" if config.extractor == "random" or labels < 2 else "classifier"


def extractor_for(
    config: EvaluateConfig, dataset: Path | None, data_digest: str, train: Labelled, held_out: Labelled, work: Store
) -> AnyExtractor:
    """Return the extractor of the dataset, cached in extractors/ of the work directory by a digest of data, settings and code.

    `dataset` is None if the images are not from a dataset artifact. Of several evaluations of the same images one creates the
    extractor. External extractors are not cached. Raises ArtifactError and ConfigError.
    """
    if config.extractor == "inception" or config.extractor.startswith("savedmodel:"):
        return external_extractor(config, train.images.shape[1], train.images.shape[3])
    kind = kind_for(config, train)
    epochs = config.extractor_epochs if kind == "classifier" else 0
    key = digest_of([data_digest, kind, epochs, SEED, code_digest("evaluate")])
    name = f"{FOLDER}/{key[:24]}"
    if MANIFEST not in work.names(name):
        with leased(work, f"{name}.lease", holder="Another evaluation of this dataset", wait_seconds=WAIT_SECONDS):
            if MANIFEST not in work.names(name):
                created = train_classifier(train, held_out, epochs) if kind == "classifier" else random_extractor(train.images)
                inputs = {"dataset": dataset} if dataset else None
                with new_stored_artifact(work, name, "extractor", config=config, inputs=inputs) as writer:
                    created.save(writer.path)
                    writer.details = {**created.settings.model_dump(), "digest": created.digest}
    with open_artifact(work, name, "extractor", verify=False) as folder:
        return extractor.load(folder)


def external_extractor(config: EvaluateConfig, image_size: int, channels: int) -> ExternalExtractor:
    """Return the external extractor of the config. Raises ConfigError, and ArtifactError if its digest is another."""
    _, _, path = config.extractor.partition(":")
    location = path or config.extractor_weights
    graph = location.endswith(".pb") and not path
    settings = ExternalSettings(
        kind="savedmodel" if path else "inception-2015" if graph else "inception",
        location=str(Path(location).expanduser()) if location else "",
        range=config.extractor_range if path else "0..255" if graph else "-1..1",
        digest=config.extractor_digest,
        image_size=image_size,
        channels=channels,
    )
    loaded = ExternalExtractor(settings)
    digest = loaded.settings.digest[:12]
    say(f"features of {settings.kind}, {loaded.width} per image, weights {digest}; resize {loaded.resize}")
    return loaded


def random_extractor(images: Images) -> Extractor:
    """Return the extractor with fixed random weights for images [N, H, W, C]; only its scale depends on the images."""
    _, size, _, channels = images.shape
    weights = extractor.initial_weights(extractor.network(size, channels, 0), SEED)
    return _scaled("random", images, weights, classes=0)


def train_classifier(train: Labelled, held_out: Labelled, epochs: int) -> Extractor:
    """Return the extractor trained on the labelled training images, with its accuracy on the labelled held-out ones.

    The optimizer is AdamW on the cross-entropy, with a learning rate that decays to zero along a cosine.
    """
    images, labels = _labelled(train)
    _, size, _, channels = images.shape
    classes = int(labels.max()) + 1
    model = extractor.network(size, channels, classes)
    model.set_weights(extractor.initial_weights(model, SEED))
    epochs = max(1, min(epochs, MAX_PIXELS_SEEN // (len(images) * size * size)))
    say(f"training the classifier for the features: {epochs} epochs of {len(images):,} images")
    _fit(model, images, labels, epochs)
    classifier = _scaled("classifier", images, model.get_weights(), classes)
    images, labels = _labelled(held_out)
    if not len(images):
        return classifier
    accuracy = float((classifier.classes_of(classifier.features(images)) == labels).mean())
    say(f"the classifier labels {accuracy:.1%} of the held-out images correctly")
    return classifier._replace(settings=classifier.settings.model_copy(update={"held_out_accuracy": accuracy}))


def _fit(model: Any, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], epochs: int) -> None:
    import keras
    import tensorflow as tf

    batch_size = min(BATCH_SIZE, len(images))
    steps = len(images) // batch_size
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps * epochs)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    optimizer.build(model.trainable_variables)
    all_images, all_labels = tf.constant(images), tf.constant(labels)

    @tf.function  # type: ignore[untyped-decorator]
    def step(rows: Any) -> None:
        with tf.GradientTape() as tape:
            scores = model(tf.gather(all_images, rows), training=True)["scores"]
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.gather(all_labels, rows), logits=scores)
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    generator = np.random.default_rng(SEED)
    for epoch in range(epochs):
        order = generator.permutation(len(images))[: steps * batch_size].reshape(steps, batch_size)
        for rows in order:
            step(tf.constant(rows))
        tick(epoch + 1, epochs, "epochs of the classifier")


def _scaled(kind: Kind, images: Images, weights: list[Floats32], classes: int) -> Extractor:
    _, size, _, channels = images.shape
    settings = Settings(kind=kind, image_size=size, channels=channels, classes=classes, scale=1.0, held_out_accuracy=None)
    unscaled = Extractor(settings, tuple(weights))
    mean_square = float(np.square(unscaled.features(images[:SCALE_IMAGES]), dtype=np.float64).mean())
    scale = 1.0 / math.sqrt(max(mean_square, 1e-12))
    return unscaled._replace(settings=settings.model_copy(update={"scale": scale}))


def _labelled(images: Labelled) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the first labelled images, up to MOST_BYTES."""
    rows = np.flatnonzero(images.labels != NO_LABEL)[: max(1, MOST_BYTES // math.prod(images.images.shape[1:]))]
    return images.images[rows], images.labels[rows]
