"""Choose the settings of a first run from what was found in its images. Every choice is a line that says why.

What the user has set is not chosen again: it is repeated, and what depends on it follows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from components.common.errors import DataRejectedError
from components.ingest.config import IngestConfig
from components.train.config import TrainConfig
from pipeline.config import load_config, shipped_config
from pipeline.images.look import Look

SIZES = get_args(IngestConfig.model_fields["image_size"].annotation)
LARGEST = {"cpu": 32, "gpu": 64, "tpu": 64}  # the image size that is chosen at most
# For each image size the config whose [train] section was measured at it, or at the nearest size.
TUNED = {8: "quickstart.toml", 16: "fashion_mnist.toml", 28: "fashion_mnist.toml", 32: "rgb32.toml", 64: "rgb64.toml"}
GPU_BATCH = 64
FEWEST_IMAGES, FEW_IMAGES = 100, 500  # below the first, validate would refuse the dataset
FEWEST_PER_LABEL, MOST_LABELS = 50, 100  # to train with labels
MOST_UNREADABLE = 0.5
COMMON_SHARE = 0.4  # of all pixels in one colour
FEW_ROUNDS = 1500  # at 32×32, shapes become recognisable from there on (configs/rgb32.toml)
TRAINING_SHARE = 0.9  # of the minutes; the rest is for samples, scores and checkpoints
CALL_SECONDS = 5.0  # a host call takes no longer, so that Ctrl-C is answered soon
EVERY = ("log_every_rounds", "checkpoint_every_rounds", "sample_every_rounds")


class Choices:
    """Chosen settings by section.key, and for each choice a title and the reason; `asked` are the user's settings by key."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self.settings: dict[str, Any] = {}
        self.lines: list[tuple[str, str]] = []

    def set(self, key: str, value: Any) -> Any:
        """Set a key unless the user has set it; return the value that it has."""
        return self.asked[key] if key in self.asked else self.settings.setdefault(key, value)

    def choose(self, title: str, key: str, value: Any, why: str) -> Any:
        """Set a key as `set` does, and say why."""
        self.say(title, f"{self.asked[key]}, as you asked ({key})" if key in self.asked else why)
        return self.set(key, value)

    def say(self, title: str, text: str) -> None:
        """Add a line."""
        self.lines.append((title, text))


def choose(look: Look, source: str, asked: Mapping[str, Any], devices: str) -> Choices:
    """Return all settings but those that depend on the number of rounds.

    Raises DataRejectedError for images with which no training is possible.
    """
    _refuse(look, source.removeprefix("images:"), asked)
    made = Choices({key: value for key, value in asked.items() if key != "ingest.source"})
    made.set("ingest.source", source)
    made.say("Images", _what_was_found(look))
    _notes(made, look)
    devices = str(made.choose("Devices", "train.devices", devices, f"{devices}, the fastest of this machine"))
    size = _image_size(made, look, devices.partition(":")[0])
    grey = not look.coloured
    found = f"{look.coloured or 'none'} of the {look.readable:,} images looked at {'has' if grey else 'have'} colour"
    made.choose("Channels", "ingest.channels", 1 if grey else 3, f"{'1, grey' if grey else '3, RGB'}: {found}")
    _labels(made, look)
    _networks(made, size, devices)
    return made


def choose_rounds(made: Choices, train: TrainConfig, minutes: float, seconds_a_round: float | None) -> None:
    """Choose the number of rounds for these minutes of training, and what depends on it.

    `train` has all other choices; `seconds_a_round` was measured with it (None: the user has set train.rounds).
    """
    fitting = max(1, int(minutes * 60 * TRAINING_SHARE / seconds_a_round)) if seconds_a_round else train.rounds
    longest = CALL_SECONDS / seconds_a_round if seconds_a_round else 10
    a_call = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n <= min(longest, fitting / 10)), default=1)
    given = [int(made.asked[f"train.{name}"]) for name in EVERY if f"train.{name}" in made.asked]
    a_call = int(made.set("train.rounds_per_call", math.gcd(a_call, *given)) or 1)
    rounds = max(a_call, fitting // a_call * a_call)
    why = f"{rounds:,}: {minutes:g} minutes of training at {seconds_a_round or 0:.2g} s a round, as measured now"
    rounds = int(made.choose("Rounds", "train.rounds", rounds, why))
    for name, parts in zip(EVERY, (100, 10, 10), strict=True):
        made.set(f"train.{name}", a_call * -(-rounds // (parts * a_call)))
    images = rounds * train.n_critic * train.global_batch_size
    made.set("train.score_every_images", max(1, images // 10))
    made.set("train.ema_halflife_rounds", round(min(500.0, max(5.0, rounds / 8)), 1))
    if rounds < FEW_ROUNDS:
        made.say("Note", f"With {rounds:,} rounds the samples will be little more than coloured blurs.")
    if seconds_a_round:
        made.say(
            "More",
            f"--minutes {3 * minutes:g}: on Fashion-MNIST, three times as many minutes of training halved the FID"
            " (docs/time_to_quality.md). The other steps take a few minutes in addition.",
        )


def _refuse(look: Look, location: str, asked: Mapping[str, Any]) -> None:
    examples = "; ".join(look.problems[:3])
    if len(look.problems) > MOST_UNREADABLE * look.sampled:
        raise DataRejectedError(
            f"{len(look.problems):,} of the {look.sampled:,} files looked at in {location} cannot be read as images: {examples}.",
            'Name a folder of images, or a pattern such as "DIR/**/*.jpg".',
        )
    if look.readable > 1 and look.different == 1:
        raise DataRejectedError(
            f"The {look.readable:,} images looked at in {location} are all the same picture.",
            f"A training needs at least {FEWEST_IMAGES} different images.",
        )
    if look.blank == look.readable:
        raise DataRejectedError(
            f"The {look.readable:,} images looked at in {location} are all of a single colour.", "Name a folder of pictures."
        )
    if look.images < FEWEST_IMAGES and "validate.min_train_images" not in asked:
        about = "" if look.images == look.files else "about "
        raise DataRejectedError(
            f"{location} has {about}{look.images} different images; a training needs at least {FEWEST_IMAGES}.",
            f"Add images; {FEW_IMAGES} are still few, and 2,000 are better.",
        )


def _what_was_found(look: Look) -> str:
    widths, heights = zip(*look.sizes, strict=True)
    smallest, largest = f"{min(widths)}×{min(heights)}", f"{max(widths)}×{max(heights)}"
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    looked = "all" if look.sampled == look.files else f"{look.sampled:,} of them"
    return f"{look.files:,} files; {looked} looked at: {sizes} pixels"


def _notes(made: Choices, look: Look) -> None:
    """Say what is unusual about the images, and what follows from it."""
    count = f"of the {look.readable:,} images looked at"
    if look.problems:
        share = len(look.problems) / look.sampled
        made.set("ingest.max_quarantine_fraction", round(min(1.0, 0.05 + 2 * share), 2))
        made.say(
            "Note", f"{len(look.problems):,} of {look.sampled:,} files cannot be read and are left out: {look.problems[0]}, …"
        )
    if look.images < FEW_IMAGES:
        made.say(
            "Note",
            f"About {look.images:,} different images are few: the generator may learn them by heart, and all scores have large"
            " errors. 2,000 or more are better.",
        )
    if look.different < 0.9 * look.readable:
        made.say("Note", f"Only {look.different:,} {count} are different; copies are left out.")
    if len(set(look.sizes)) > 1:
        long = sum(max(size) > 1.5 * min(size) for size in look.sizes)
        pad = f" {long:,} are much longer than wide; --set ingest.fit=pad keeps them whole, with black borders." if long else ""
        made.say("Note", f"The sizes differ: the centre square of each image is cut out and resized.{pad}")
    if look.transparent:
        made.say("Note", f"{look.transparent:,} {count} are partly transparent: those parts become white.")
    if look.common_share >= COMMON_SHARE:
        made.say(
            "Note",
            f"{look.common_share:.0%} of all pixels have one colour ({look.common_colour}): a generator that draws nothing else"
            " is not far from such images, so look at the samples too, not only at the scores.",
        )
    if look.blank:
        made.say("Note", f"{look.blank:,} {count} are of a single colour; remove them if they are not meant to be learned.")


def _image_size(made: Choices, look: Look, kind: str) -> int:
    largest = LARGEST.get(kind, 64)
    native = max((size for size in SIZES if size <= look.side), default=SIZES[0])
    size = min(native, largest)
    why = f"the largest supported size that half of the images have"
    if native > largest:
        larger = SIZES[SIZES.index(largest) + 1]
        why = (
            f"larger images need hours on a {kind.upper()}; these have {look.side} pixels, and --set ingest.image_size={larger}"
            " keeps more of them"
        )
    if look.side < SIZES[0]:
        why = f"the smallest size; the images have {look.side} pixels and are enlarged"
    chosen = made.choose("Image size", "ingest.image_size", size, f"{size}×{size}: {why}")
    if small := sum(min(size) < chosen for size in look.sizes) if isinstance(chosen, int) else 0:
        made.say("Note", f"{small:,} of the {look.readable:,} images looked at are smaller: they are enlarged, and blurred.")
    return int(chosen) if chosen in SIZES else size


def _labels(made: Choices, look: Look) -> None:
    """Train with labels if every image has one and no label is rare."""
    counts = {label: count for label, count in look.labels.items() if label}
    rarest = min(counts, key=lambda label: counts[label], default="")
    if len(counts) < 2:
        why = "all images are in one folder" if counts or look.labels_are_folders else "the list has none"
    elif "" in look.labels:
        why = f"{look.labels['']:,} of the {look.files:,} images are in no folder"
    elif len(counts) > MOST_LABELS:
        why = f"{len(counts):,} folders are too many to be classes, of which there can be {MOST_LABELS}"
    elif counts[rarest] < FEWEST_PER_LABEL:
        why = f"{rarest} has only {counts[rarest]} images, and {FEWEST_PER_LABEL} are needed"
    else:
        names = ", ".join([*list(counts)[:5], *(["…"] if len(counts) > 5 else [])])
        made.choose(
            "Labels", "train.conditional", True, f"{len(counts)} ({names}): the model learns each, for generate --label"
        )
        if look.labels_are_folders:
            made.set("ingest.labels_from_folders", True)
        return
    made.choose("Labels", "train.conditional", False, f"none: {why}")


def _networks(made: Choices, size: int, devices: str) -> None:
    """Take networks, batch and rates from the config for this image size."""
    name = TUNED.get(size, TUNED[64])
    section = load_config(shipped_config(name)).train
    for key in sorted(section.model_fields_set - {"devices", "data"}):
        if not key.startswith("rounds") and key not in (*EVERY, "score_every_images", "ema_halflife_rounds"):
            made.set(f"train.{key}", getattr(section, key))
    on_gpu = devices == "gpu"
    if on_gpu and "train.global_batch_size" not in made.asked:
        made.settings["train.global_batch_size"] = GPU_BATCH
    known = f"as in configs/{name}, where they were tuned" if size in TUNED else f"as in configs/{name}, for half the size"
    batch = made.asked.get("train.global_batch_size", made.settings.get("train.global_batch_size", section.global_batch_size))
    also = " on a CPU; nothing was tuned on a GPU" if on_gpu else ""
    made.say("Networks", f"{section.networks}, batch {batch}, learning rates and the rest {known}{also}")


def lines_as_text(made: Choices) -> list[str]:
    """Return the lines, with titles of equal width."""
    return [f"{title:<11} {text}" for title, text in made.lines]
