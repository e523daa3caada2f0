"""From what was found in images to settings, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.common.errors import DataRejectedError
from pipeline.config import RunConfig, load_config
from pipeline.images.choose import Choices, choose, choose_rounds
from pipeline.images.look import Look
from pipeline.images.speed import Speed

SOURCE = "images:/data/cats"
PLAIN = Look(2000, {"": 2000}, sizes=[(64, 64)] * 400, different=400, coloured=390, common_share=0.1, common_colour="#ffffff")


def made(look: Look = PLAIN, asked: dict[str, Any] | None = None, devices: str = "cpu:1") -> Choices:
    choices = Choices(asked or {})
    choose(choices, look, SOURCE, devices)
    return choices


def config_of(choices: Choices, overrides: list[str] | None = None) -> RunConfig:
    return load_config(None, overrides or [], choices.settings)


def line(choices: Choices, title: str) -> str:
    return " / ".join(text for text in choices.lines if text.startswith(title))


@pytest.mark.parametrize(
    ("side", "devices", "size"),
    [
        (5, "cpu:1", 8), (8, "cpu:1", 8), (15, "cpu:1", 8), (16, "cpu:1", 16), (28, "cpu:1", 28), (31, "cpu:1", 28),
        (32, "cpu:1", 32), (64, "cpu:1", 32), (4000, "cpu:2", 32), (64, "gpu", 64), (40, "gpu", 32), (4000, "gpu", 64),
    ],
)  # fmt: skip
def test_the_image_size_is_what_the_images_have_and_the_device_can(side: int, devices: str, size: int) -> None:
    choices = made(replace(PLAIN, sizes=[(side, side)] * 400), devices=devices)
    assert config_of(choices).ingest.image_size == size
    assert line(choices, "Image size").startswith(f"Image size  {size}×{size}: ")


@pytest.mark.parametrize(("coloured", "channels"), [(0, 1), (1, 3), (400, 3)])
def test_images_without_colour_are_grey(coloured: int, channels: int) -> None:
    assert config_of(made(replace(PLAIN, coloured=coloured))).ingest.channels == channels


@pytest.mark.parametrize(
    ("labels", "used", "words"),
    [
        ({"": 2000}, False, "all images are in one folder"),
        ({"a": 2000}, False, "all images are in one folder"),
        ({"a": 1000, "b": 1000}, False, "with a classifier of two labels, scores can mislead"),
        ({"a": 1900, "b": 50, "c": 50}, True, "the 3 folders (a, b, c), for the scores"),
        ({"a": 1998, "b": 2}, False, "b has only 2 images, and 50 are needed"),
        ({"": 10, "a": 990, "b": 500, "c": 500}, False, "10 of the 2,000 images have none"),
        ({str(number): 60 for number in range(101)}, False, "101 folders are too many"),
    ],
)
def test_folders_are_labels_if_all_images_have_one_and_none_is_rare(labels: dict[str, int], used: bool, words: str) -> None:
    choices = made(replace(PLAIN, labels=labels))
    config = config_of(choices)
    assert (config.train.conditional, config.ingest.labels_from_folders) == (False, used)
    assert words in line(choices, "Labels")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"files": 300}, "About 300 different images are few: the generator may learn them by heart"),
        ({"sizes": [(64, 64)] * 399 + [(200, 100)]}, "The sizes differ: the centre square of each image is cut out"),
        ({"sizes": [(64, 64)] * 399 + [(200, 100)]}, "1 are much longer than wide; --set ingest.fit=pad"),
        ({"sizes": [(64, 64)] * 390 + [(20, 20)] * 10}, "10 of the 400 images looked at are smaller: they are enlarged"),
        ({"transparent": 7}, "7 of the 400 images looked at are partly transparent: those parts become white."),
        ({"common_share": 0.42}, "42% of all pixels have one colour (#ffffff)"),
        ({"blank": 3}, "3 of the 400 images looked at are of a single colour"),
        ({"different": 200}, "Only 200 of the 400 images looked at are different; copies are left out."),
        (
            {"problems": ["a.txt (not an image)"] * 100},
            "100 of 500 files cannot be read and are left out: a.txt (not an image)",
        ),
        ({"seconds": 400.0, "files": 15_000}, "Reading all images takes about 4 h 10 min, once."),
    ],
)
def test_what_is_unusual_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in line(made(replace(PLAIN, **changes)), "Note")
    assert words not in line(made(), "Note")


def test_unreadable_files_do_not_end_the_run() -> None:
    config = config_of(made(replace(PLAIN, problems=["a.txt (not an image)"] * 100)))
    assert config.ingest.max_quarantine_fraction == 0.45


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"files": 10, "sizes": [(64, 64)] * 10, "different": 10},
            "/data/cats has 10 different images; a training needs at le",
        ),
        (
            {"files": 100, "sizes": [(64, 64)] * 100, "different": 1},
            "The 100 images looked at in /data/cats are all the same p",
        ),
        ({"blank": 400}, "The 400 images looked at in /data/cats are all of a single colour."),
        (
            {"sizes": [], "problems": ["a.txt (not an image)"] * 50},
            "50 of 50 files looked at in /data/cats cannot be read as i",
        ),
        ({"different": 10}, "/data/cats has about 50 different images"),
    ],
)
def test_images_with_which_no_training_is_possible_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataRejectedError, match=words.replace("(", r"\(")):
        made(replace(PLAIN, **changes))


@pytest.mark.parametrize(
    ("size", "devices", "name", "rate", "batch", "channels", "measured"),
    [
        (8, "cpu:1", "quickstart", 2e-3, 64, 32, True), (28, "cpu:1", "fashion_mnist", 2e-3, 16, 16, True),
        (64, "cpu:1", "rgb64", 1e-3, 16, 16, True), (64, "gpu", "rgb64", 1e-3, 64, 32, True),
        (128, "cpu:1", "rgb64", 1e-3, 16, 16, False), (32, "gpu", "rgb32", 2e-3, 64, 32, False),
    ],
)  # fmt: skip
def test_networks_come_from_the_config_for_the_size(
    size: int, devices: str, name: str, rate: float, batch: int, channels: int, measured: bool
) -> None:
    choices = made(asked={"ingest.image_size": size}, devices=devices)
    train = config_of(choices).train
    assert (train.critic_learning_rate, train.global_batch_size) == (rate, batch)
    assert train.generator_channels == train.critic_channels == channels
    assert f"configs/{name}.toml, {'which was' if measured else 'not'} measured at this size" in line(choices, "Networks")


@pytest.mark.parametrize(
    ("key", "value", "title"),
    [
        ("ingest.image_size", 16, "Image size"), ("ingest.channels", 1, "Channels"), ("train.devices", "cpu:2", "Devices"),
        ("ingest.labels_from_folders", True, "Labels"), ("train.rounds", 70, "Rounds"),
    ],
)  # fmt: skip
def test_what_the_user_has_set_is_repeated_and_not_chosen(key: str, value: Any, title: str) -> None:
    choices = made(asked={key: value})
    choose_rounds(choices, RunConfig().train.model_copy(update={"rounds": 70}), 10, Speed(0.1, "float32"))
    assert key not in choices.settings
    assert f"{value}, as you asked ({key})" in line(choices, title)


@pytest.mark.parametrize(
    ("seconds", "minutes", "rounds", "a_call"),
    [(0.01, 10, 54_000, 100), (0.1, 10, 5400, 50), (0.1, 1, 540, 50), (2.0, 10, 270, 2), (30.0, 10, 18, 1), (900.0, 1, 1, 1)],
)
def test_rounds_fill_the_minutes(seconds: float, minutes: float, rounds: int, a_call: int) -> None:
    choices = made()
    choose_rounds(choices, config_of(choices).train, minutes, Speed(seconds, "bfloat16"))
    train = config_of(choices).train
    assert (train.rounds, train.rounds_per_call, train.precision) == (rounds - rounds % a_call, a_call, "bfloat16")
    assert f"{minutes} minutes of training at {seconds:.2g} s a round" in line(choices, "Rounds")
    assert f"--minutes {3 * minutes}" in line(choices, "More")
    assert ("coloured blurs" in line(choices, "Note")) is (rounds < 1500)


@pytest.mark.parametrize(("size", "rounds", "share"), [(28, 20_000, 1.0), (28, 5000, 0.0), (32, 20_000, 0.0)])
def test_learning_rates_fall_in_long_trainings_where_that_was_measured(size: int, rounds: int, share: float) -> None:
    choices = made(asked={"ingest.image_size": size})
    choose_rounds(choices, config_of(choices).train, 10, Speed(540 / rounds, "float32"))
    assert config_of(choices).train.decay_share == share


@pytest.mark.parametrize("override", ["train.log_every_rounds=25", "train.penalty_every_rounds=4", "train.rounds=7"])
def test_numbers_of_rounds_agree_with_those_of_the_user(override: str) -> None:
    key, _, value = override.partition("=")
    choices = made(asked={key: int(value)})
    before = config_of(choices, [override]).train
    choose_rounds(choices, before, 10, None if key == "train.rounds" else Speed(0.1, "float32"))
    config_of(choices, [override])
