"""Choose the settings of a first run from what was found in its images. Every choice is a line that says why.

What the user has set is not chosen again: it is repeated, and what depends on it follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from components.common.errors import DataRejectedError
from components.ingest.config import IngestConfig
from components.report.formatting import duration
from components.train.config import TrainConfig
from pipeline.config import load_config, shipped_config
from pipeline.images.look import Look
from pipeline.images.speed import Speed

SIZES = get_args(IngestConfig.model_fields["image_size"].annotation)
LARGEST = {"cpu": 32}  # the image size that is chosen at most; 64 on other devices
# For each image size the config in which its [train] section was measured. No larger size was measured.
TUNED = {8: "quickstart.toml", 16: "fashion_mnist.toml", 28: "fashion_mnist.toml", 32: "rgb32.toml", 64: "rgb64.toml"}
ON_A_GPU = {"global_batch_size": 64, "generator_channels": 32, "critic_channels": 32}  # measured at 64×64 (docs/results.md)
FEWEST_IMAGES, FEW_IMAGES = 100, 500  # with fewer than the first, validate refuses the dataset
FEWEST_LABELS, MOST_LABELS, FEWEST_PER_LABEL = 3, 100, 50  # for folders to be labels
COMMON_SHARE = 0.4  # of all pixels in one colour
LONG_READING_SECONDS = 60.0
FEW_ROUNDS = 1500  # emoji at 32×32 were blurs after 900 rounds of batch 16, and recognisable after 1,840
FALLING_RATES_ROUNDS = 10_000  # learning rates do not fall in a training of fewer: it was not better (docs/time_to_quality.md)
TRAINING_SHARE = 0.9  # of the minutes; the rest is for samples, scores and checkpoints
CALL_SECONDS = 5.0  # a host call takes no longer, so that Ctrl-C is answered soon
EVERY = {"log_every_rounds": 100, "checkpoint_every_rounds": 10, "sample_every_rounds": 10}  # how often in a training


class Choices:
    """Chosen settings by section.key, and a line for each choice; `asked` are the user's settings, which win."""

    def __init__(self, asked: Mapping[str, Any], show: Callable[[str], None] = lambda _: None) -> None:
        self.asked, self._show = asked, show
        self.settings: dict[str, Any] = {}
        self.lines: list[str] = []

    def set(self, key: str, value: Any) -> Any:
        """Set a key unless the user has set it; return the value that it has."""
        if key not in self.asked:
            self.settings[key] = value
        return self.asked.get(key, value)

    def choose(self, title: str, key: str, value: Any, why: str) -> Any:
        """Set a key as `set` does, and say why."""
        self.say(title, f"{self.asked[key]}, as you asked ({key})" if key in self.asked else why)
        return self.set(key, value)

    def say(self, title: str, text: str) -> None:
        """Add a line."""
        self.lines.append(f"{title:<11} {text}")
        self._show(self.lines[-1])


def choose(made: Choices, look: Look, source: str, devices: str) -> None:
    """Choose all settings but those that depend on the speed of training.

    Raises DataRejectedError for images with which no training is possible.
    """
    _refuse(look, source.removeprefix("images:"), made.asked)
    made.set("ingest.source", source)
    _say_what_was_found(made, look)
    devices = str(made.choose("Devices", "train.devices", devices, f"{devices}, the fastest of this machine"))
    size = _image_size(made, look, devices.partition(":")[0])
    grey = f"1, grey: none of the {look.readable:,} images looked at has colour"
    rgb = f"3, RGB: {look.coloured:,} of the {look.readable:,} images looked at have colour"
    made.choose("Channels", "ingest.channels", 3 if look.coloured else 1, rgb if look.coloured else grey)
    _labels(made, look)
    _networks(made, size, devices)


def choose_rounds(made: Choices, train: TrainConfig, minutes: float, speed: Speed | None) -> None:
    """Choose the number of rounds for these minutes of training, and what depends on it.

    `train` has all other choices; the speed was measured with it (None: the user has set train.rounds).
    """
    fitting, longest = train.rounds, 10.0
    if speed:
        made.set("train.precision", speed.precision)
        fitting, longest = int(minutes * 60 * TRAINING_SHARE / speed.seconds), CALL_SECONDS / speed.seconds
    multiple = train.penalty_every_rounds
    a_call = max((n for n in (1, 2, 5, 10, 20, 50, 100) if n * multiple <= min(longest, fitting / 10)), default=1) * multiple
    a_call = made.set("train.rounds_per_call", math.gcd(a_call, *(made.asked.get(f"train.{name}", 0) for name in EVERY)))
    rounds = max(1, fitting // a_call) * a_call
    why = f"{rounds:,}: {minutes:g} minutes of training at {speed.seconds:.2g} s a round, measured just now" if speed else ""
    rounds = made.choose("Rounds", "train.rounds", rounds, why)
    for name, times in EVERY.items():
        made.set(f"train.{name}", a_call * -(-rounds // (times * a_call)))
    made.set("train.score_every_images", max(1, rounds * train.n_critic * train.global_batch_size // 10))
    made.set("train.decay_share", train.decay_share if rounds >= FALLING_RATES_ROUNDS else 0.0)
    made.set("train.ema_halflife_rounds", min(500.0, max(5.0, rounds / 8)))
    if rounds < FEW_ROUNDS:
        made.say("Note", f"With {rounds:,} rounds the samples will be little more than coloured blurs.")
    if speed:
        gain = "on Fashion-MNIST, three times as many minutes of training halved the FID (docs/time_to_quality.md)"
        made.say("More", f"--minutes {3 * minutes:g}: {gain}. The other steps take a few minutes in addition.")


def _refuse(look: Look, location: str, asked: Mapping[str, Any]) -> None:
    looked = f"The {look.readable:,} images looked at in {location} are all"
    if len(look.problems) > look.readable:
        raise DataRejectedError(
            f"{len(look.problems):,} of {look.sampled:,} files looked at in {location} cannot be read as images: "
            f"{', '.join(look.problems[:3])}.",
            'Name a folder of images, or a pattern such as "DIR/**/*.jpg".',
        )
    if look.readable > 1 and look.different == 1:
        raise DataRejectedError(f"{looked} the same picture.", f"Name a folder of at least {FEWEST_IMAGES} different images.")
    if look.blank == look.readable:
        raise DataRejectedError(f"{looked} of a single colour.", "Name a folder of pictures.")
    if look.images < FEWEST_IMAGES and "validate.min_train_images" not in asked:
        about = "" if look.sampled == look.files else "about "
        raise DataRejectedError(
            f"{location} has {about}{look.images:,} different images; a training needs at least {FEWEST_IMAGES}.",
            f"Add images: {FEW_IMAGES} are still few, 2,000 are better.",
        )


def _say_what_was_found(made: Choices, look: Look) -> None:
    """Say how many images there are, what is unusual about them, and what follows from it."""
    count = f"of the {look.readable:,} images looked at"
    looked = "all" if look.sampled == look.files else f"{look.sampled:,} of them"
    widths, heights = zip(*look.sizes, strict=True)
    smallest, largest = (f"{limit(widths)}×{limit(heights)}" for limit in (min, max))
    sizes = smallest if smallest == largest else f"{smallest} to {largest}"
    made.say("Images", f"{look.files:,} files; {looked} looked at: {sizes} pixels")
    if look.problems:
        made.set("ingest.max_quarantine_fraction", round(min(1.0, 0.05 + 2 * len(look.problems) / look.sampled), 2))
        left_out = f"{len(look.problems):,} of {look.sampled:,} files cannot be read and are left out"
        made.say("Note", f"{left_out}: {', '.join(look.problems[:2])}, …")
    if look.images < FEW_IMAGES:
        few = "are few: the generator may learn them by heart, and all scores have large errors"
        made.say("Note", f"About {look.images:,} different images {few}. 2,000 or more are better.")
    if look.different < 0.9 * look.readable:
        made.say("Note", f"Only {look.different:,} {count} are different; copies are left out.")
    if smallest != largest:
        long = sum(max(size) > 1.5 * min(size) for size in look.sizes)
        pad = f" {long:,} are much longer than wide; --set ingest.fit=pad keeps them whole, with black borders." if long else ""
        made.say("Note", f"The sizes differ: the centre square of each image is cut out and resized.{pad}")
    if (reading := look.seconds / look.sampled * look.files) > LONG_READING_SECONDS:
        made.say("Note", f"Reading all images takes about {duration(reading)}, once.")
    if look.transparent:
        made.say("Note", f"{look.transparent:,} {count} are partly transparent: those parts become white.")
    if look.common_share >= COMMON_SHARE:
        easy = "a generator that draws nothing else is not far from such images, so look at the samples, not only at the scores"
        made.say("Note", f"{look.common_share:.0%} of all pixels have one colour ({look.common_colour}): {easy}.")
    if look.blank:
        made.say("Note", f"{look.blank:,} {count} are of a single colour; remove them if they are not meant to be learned.")


def _image_size(made: Choices, look: Look, kind: str) -> int:
    native = max((size for size in SIZES if size <= look.side), default=SIZES[0])
    size = min(native, LARGEST.get(kind, 64))
    why = "the largest supported size that half of the images have"
    if look.side < SIZES[0]:
        why = f"the smallest supported size; the images have {look.side} pixels and are enlarged"
    elif native > size:
        larger = SIZES[SIZES.index(size) + 1]
        why = f"the images have {look.side} pixels; --set ingest.image_size={larger} takes about 4 times as long a round"
    chosen = made.choose("Image size", "ingest.image_size", size, f"{size}×{size}: {why}")
    size = int(chosen) if chosen in SIZES else size
    if small := sum(min(each) < size for each in look.sizes):
        made.say("Note", f"{small:,} of the {look.readable:,} images looked at are smaller: they are enlarged, and blurred.")
    return size


def _labels(made: Choices, look: Look) -> None:
    """Use folders as labels if every image has one and no label is rare; they train the extractor that scores use."""
    counts = {label: count for label, count in look.labels.items() if label}
    rarest = min(counts, key=lambda label: counts[label], default="")
    if not look.labels_are_folders:
        made.say("Labels", f"those of the list: {len(counts)}")
        return
    why = ""
    if len(counts) < 2:
        why = "all images are in one folder"
    elif "" in look.labels:
        why = f"{look.labels['']:,} of the {look.files:,} images have none"
    elif len(counts) > MOST_LABELS:
        why = f"{len(counts):,} folders are too many to be classes, of which there may be {MOST_LABELS}"
    elif counts[rarest] < FEWEST_PER_LABEL:
        why = f"{rarest} has only {counts[rarest]} images, and {FEWEST_PER_LABEL} are needed"
    elif len(counts) < FEWEST_LABELS:
        why = "with a classifier of two labels, scores can mislead (docs/own_images.md)"
    names = ", ".join([*list(counts)[:5], *["…"] * (len(counts) > 5)])
    used = f"the {len(counts)} folders ({names}), for the scores; if they do not say what is drawn,"
    used += " --set ingest.labels_from_folders=false"
    made.choose("Labels", "ingest.labels_from_folders", not why, f"none: {why}" if why else used)


def _networks(made: Choices, size: int, devices: str) -> None:
    """Take networks, batch and rates from the config for this image size; choose_rounds sets what depends on the rounds."""
    name, on_a_gpu = TUNED.get(size, TUNED[64]), devices == "gpu"
    section = load_config(shipped_config(name)).train
    if on_a_gpu:
        section = section.model_copy(update=ON_A_GPU)
    for key in sorted(section.model_fields_set - {"devices", "rounds", "score_every_images", "ema_halflife_rounds"}):
        made.set(f"train.{key}", getattr(section, key))
    for key in ("rounds_per_call", *EVERY):
        made.set(f"train.{key}", made.asked.get("train.penalty_every_rounds", 1))
    batch = made.asked.get("train.global_batch_size", section.global_batch_size)
    measured = size == 64 if on_a_gpu else size in TUNED
    how = "which was measured at this size" if measured else "not measured at this size on such a device"
    wide = made.asked.get("train.generator_channels", section.generator_channels)
    made.say(
        "Networks",
        f"{section.networks}, batch {batch}, {wide} channels, learning rates and the rest as in configs/{name}, {how}",
    )
