"""Creates the default extractor of a dataset, once: trains it, and caches the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.common.artifacts import MANIFEST, code_digest, digest_of
from components.common.lease import leased
from components.common.progress import say, tick
from components.common.store import Store
from components.common.stored_artifacts import new_stored_artifact, open_artifact
from components.dataset.records import NO_LABEL, ImageSet
from components.dataset.stored_images import StoredSet
from components.evaluate.config import EvaluateConfig
from components.evaluate.features import damage, extractor
from components.evaluate.features.external import ExternalExtractor, ExternalSettings
from components.evaluate.features.extractor import AnyExtractor, Extractor, Floats32, Images, Settings

FOLDER = "extractors"
WAIT_SECONDS = 600.0  # for another evaluation that creates the same extractor
SEED = 0  # of initial weights and data order; fixed, so that runs with different evaluate.seed share an extractor
BATCH_SIZE = 96
LEARNING_RATE = 2.5e-3
WEIGHT_DECAY = 1e-3
# This limits training to about 10 s on 1 core for any dataset: 150,000 images of 28×28, fewer of larger images.
MAX_PIXELS_SEEN = 150_000 * 28 * 28
FEWEST_EPOCHS = 2
TICK_STEPS = 200  # between two lines of progress
MOST_IMAGES = 20_000  # real ones for training
MOST_DAMAGED = 40_000  # different damaged ones
FEW_IMAGES = 500  # fewer real ones are learned by heart, so each is varied
VARIATIONS = 10  # of each of few images, in an epoch
READ_AT_ONCE = 1000  # images
WHITENING_IMAGES = 5000

Labelled = ImageSet | StoredSet


def extractor_for(
    config: EvaluateConfig, dataset: Path | None, data_digest: str, train: Labelled, held_out: Labelled, work: Store
) -> AnyExtractor:
    """Return the extractor of the dataset, cached in extractors/ of the work directory by a digest of data, settings and code.

    `dataset` is None if the images are not from a dataset artifact. Of several evaluations of the same images one creates the
    extractor. External extractors are not cached. Raises ArtifactError and ConfigError.
    """
    if config.extractor == "inception" or config.extractor.startswith("savedmodel:"):
        return external_extractor(config, train.images.shape[1], train.images.shape[3])
    key = digest_of([data_digest, config.extractor_epochs, SEED, code_digest("evaluate")])
    name = f"{FOLDER}/{key[:24]}"
    if MANIFEST not in work.names(name):
        with leased(work, f"{name}.lease", holder="Another evaluation of this dataset", wait_seconds=WAIT_SECONDS):
            if MANIFEST not in work.names(name):
                created = train_extractor(train, held_out, config.extractor_epochs)
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
    """Return an extractor with fixed random weights for images [N, H, W, C]; only its whitening depends on the images."""
    _, size, _, channels = images.shape
    weights = extractor.initial_weights(extractor.network(size, channels, 1), SEED)
    return _whitened(Settings(kind="random", image_size=size, channels=channels, classes=0), images, weights)


def train_extractor(train: Labelled, held_out: Labelled, epochs: int) -> Extractor:
    """Return the extractor trained on real images and as many damaged ones, and how well it recognises held-out ones.

    Real images have a class for each label, or one class if there are fewer than two labels; each kind of damage is another
    class. An image of a small set is damaged several times, each time differently. The optimizer is AdamW on the cross-entropy,
    with a learning rate that decays to zero along a cosine.
    """
    chosen, labels = _chosen(train)
    count, classes = len(chosen), int(labels.max()) + 1
    _, size, _, channels = train.images.shape
    small = size // extractor.averaged(size)
    seen = min(2 * epochs * count * (VARIATIONS if count < FEW_IMAGES else 1), MAX_PIXELS_SEEN // small**2)
    model = extractor.network(small, channels, classes + len(damage.KINDS))
    model.set_weights(extractor.initial_weights(model, SEED))
    say(f"training the extractor of features: {count:,} images, {seen // 2:,} times real and as often damaged")
    pool_size = max(count, min(MOST_DAMAGED, seen // 2))
    _fit(model, _pool(_averaged(train.images, chosen), labels, pool_size), seen)
    labelled = classes if classes > 1 else 0
    settings = Settings(kind="trained", image_size=size, channels=channels, classes=labelled)
    return _tested(_whitened(settings, train.images, model.get_weights()), held_out)


class _Pool(NamedTuple):
    """Real images [N, H, W, C], damaged ones [M, H, W, C], and the classes of both [N + M]."""

    real: damage.Images
    damaged: damage.Pixels
    classes: npt.NDArray[np.int64]

    def images(self, numbers: npt.NDArray[np.int64]) -> damage.Pixels:
        """Return the images of these numbers [K], between 0 and N + M - 1: uint8 [K, H, W, C]."""
        count, is_real = len(self.real), numbers < len(self.real)
        images = np.empty((len(numbers), *self.damaged.shape[1:]), np.uint8)
        images[is_real] = self.real[numbers[is_real]]
        images[~is_real] = self.damaged[numbers[~is_real] - count]
        return images


def _pool(images: damage.Pixels, labels: npt.NDArray[np.int64], count: int) -> _Pool:
    """Return `count` of the images, each varied if there are few, and about as many damaged ones."""
    generator = np.random.default_rng(SEED)
    rows = np.resize(generator.permutation(len(images)), count)
    real = _varied(images[rows], generator) if len(images) < FEW_IMAGES else damage.Repeated(images, rows)
    damaged, kinds = damage.damaged(real, count, generator)
    return _Pool(real, damaged, np.concatenate([labels[rows], labels.max() + 1 + kinds]))


def _tested(trained: Extractor, held_out: Labelled) -> Extractor:
    """Return the extractor with the shares of held-out images, and of damaged held-out images, that it recognises."""
    chosen, labels = _chosen(held_out, labelled=trained.settings.classes > 0)
    if not len(chosen):
        return trained
    images = held_out.images[chosen]
    classes = max(1, trained.settings.classes)
    of_real = trained.features_and_scores(images)[1]
    of_damaged = trained.features_and_scores(damage.damaged(images, len(images), np.random.default_rng(SEED + 1))[0])[1]
    shares = [float((scores.argmax(axis=1) < classes).mean()) for scores in (of_real, of_damaged)]
    found = {"told_apart": (shares[0] + 1 - shares[1]) / 2}
    text = f"the extractor takes {shares[0]:.1%} of held-out images and {shares[1]:.1%} of damaged ones for real"
    if trained.settings.classes:
        found["held_out_accuracy"] = float((of_real[:, :classes].argmax(axis=1) == labels).mean())
        text += f", and labels {found['held_out_accuracy']:.1%} of held-out images correctly"
    say(text)
    return trained._replace(settings=trained.settings.model_copy(update=found))


def _fit(model: Any, pool: _Pool, seen: int) -> None:
    """Train on `seen` images of the pool, in a new random order whenever all were seen."""
    import keras
    import tensorflow as tf

    count = len(pool.classes)
    batch_size = min(BATCH_SIZE, count)
    steps = max(1, seen // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(images: Any, classes: Any) -> None:
        with tf.GradientTape() as tape:
            scores = model(images, training=True)["scores"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=scores))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    generator = np.random.default_rng(SEED)
    epochs = [generator.permutation(count) for _ in range(-(-steps * batch_size // count))]
    for index, numbers in enumerate(np.concatenate(epochs)[: steps * batch_size].reshape(steps, batch_size)):
        step(tf.constant(pool.images(numbers)), tf.constant(pool.classes[numbers]))
        if (index + 1) % TICK_STEPS == 0 or index + 1 == steps:
            tick(index + 1, steps, "steps of the extractor")


def _varied(images: npt.NDArray[np.uint8], generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return images [N, H, W, C], half of them mirrored, moved by a tenth, with another contrast and brightness."""
    count, size, _, channels = images.shape
    border = size // 10
    wide = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), mode="edge")
    down, right = generator.integers(0, 2 * border + 1, (2, count, 1)) + np.arange(size)
    values = wide[np.arange(count)[:, None, None], down[:, :, None], right[:, None, :]].astype(np.float32)
    values[::2] = values[::2, :, ::-1]
    middle = values.mean(axis=(1, 2), keepdims=True)
    contrast = np.exp(generator.uniform(-0.4, 0.4, (count, 1, 1, 1))).astype(np.float32)
    brightness = generator.uniform(-40, 40, (count, 1, 1, channels)).astype(np.float32)
    return damage.as_pixels(middle + (values - middle) * contrast + brightness)


def _averaged(images: Images, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
    """Return these of images [N, H, W, C] as the network averages them, so that it trains on small ones; read in parts."""
    _, size, _, channels = images.shape
    side = extractor.averaged(size)
    small = size // side

    def average(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        squares = part[:, : small * side, : small * side].reshape(len(part), small, side, small, side, channels)
        return damage.as_pixels(squares.mean(axis=(2, 4), dtype=np.float32)) if side > 1 else part

    return np.concatenate([average(images[part]) for part in np.array_split(rows, -(-len(rows) // READ_AT_ONCE))])


def _whitened(settings: Settings, images: Images, weights: Sequence[Floats32]) -> Extractor:
    activations, _ = extractor.outputs(weights, images[:WHITENING_IMAGES])
    return Extractor(settings, tuple(weights), *extractor.whitening_of(activations))


def _chosen(split: Labelled, *, labelled: bool | None = None) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Return the numbers of images, and the class of each: the label, or 0 for all if there are fewer than two labels.

    At most MOST_IMAGES, and so many that each is seen at least FEWEST_EPOCHS times.
    """
    rows = np.flatnonzero(split.labels != NO_LABEL)
    if labelled is None:
        labelled = len(np.unique(split.labels[rows])) > 1
    if not labelled:
        rows = np.arange(len(split.labels))
    size = split.images.shape[1] // extractor.averaged(split.images.shape[1])
    rows = rows[: max(1, min(MOST_IMAGES, MAX_PIXELS_SEEN // (2 * FEWEST_EPOCHS * size * size)))]
    return rows, split.labels[rows] if labelled else np.zeros(len(rows), np.int64)
