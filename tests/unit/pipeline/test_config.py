"""The configuration: which values are refused, with which error, and the reference of all keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.common.errors import ConfigError
from pipeline.commands.config import as_markdown, keys_of
from pipeline.config import RunConfig, as_toml, load_config, override_values, resolve_paths
from tests.support.command_line import run

BAD = [
    ("deploy.memory=8", "deploy.memory = 8: write a number with a unit, such as 8G or 8Gi."),
    ("deploy.memory=8GB", "deploy.memory = '8GB': write a number with a unit, such as 8G or 8Gi."),
    ("deploy.cpu=-1", "deploy.cpu = '-1': string should match pattern"),
    ("deploy.cpu=true", "deploy.cpu = True: input should be a valid string."),
    ("train.round=3", "train.round: unknown key; did you mean rounds?"),
    ("trian.rounds=3", "trian: unknown key; did you mean train?"),
    ("ingest.xyzzy=3", "ingest.xyzzy: unknown key; the known keys are source, tfds_manual_dir"),
    ("push.confidence=0.9", "push.confidence: unknown key; did you mean gate.confidence?"),
    ("ingest.image_size=30", "ingest.image_size = 30: input should be 8, 16, 28, 32, 64 or 128."),
    ("ingest.channels=4", "ingest.channels = 4: input should be 1 or 3."),
    ("train.rounds=many", "train.rounds = 'many': input should be a valid integer."),
    ("train.rounds=0", "train.rounds = 0: input should be greater than or equal to 1."),
    ("train.critic_learning_rate=nan", "train.critic_learning_rate"),
    ("train.devices=cpu", """train.devices = 'cpu': use "cpu:N" (N virtual devices), "gpu", "tpu" or "tpu:NAME"."""),
    ("train.devices=cpu:3", "global_batch_size = 64 does not divide by 3 replicas; use 63 or 66."),
    ("train.rounds_per_call=30", "log_every_rounds = 50 is not a multiple of rounds_per_call = 30."),
    ("ingest.source=s3", """ingest.source = 's3': use "digits", "tfds:NAME" or "images:LOCATION"."""),
    ("ingest.source=tfds:", "ingest.source = 'tfds:': use"),
    ("ingest.tfds_manual_dir=/x", """the tfds_* keys need source = "tfds:NAME", not "digits"."""),
    ("ingest.eval_fraction=1.0", "ingest.eval_fraction = 1.0: input should be less than 1."),
    ("evaluate.kid_subset_size=5000", "evaluate.kid_subset_size = 5000 is more than evaluate.samples = 2000"),
    (
        "deploy.tpu_topology=v5e:3x3",
        "deploy.tpu_topology = 'v5e:3x3': '3x3' is not a topology of TPU v5e; use v5e:1x1, v5e:2x2,",
    ),
    (
        "deploy.tpu_topology=2x4",
        "deploy.tpu_topology = '2x4': use GENERATION:TOPOLOGY, such as v5e:2x4, with GENERATION one of v2,",
    ),
    ("deploy.tpu_platform=aws", "deploy.tpu_platform = 'aws': input should be 'any', 'gke' or 'vertex'."),
    ("deploy.tpu_spot=maybe", "deploy.tpu_spot = 'maybe': input should be a valid boolean"),
    ("push.registry=az://bucket/models", "push.registry = 'az://bucket/models': az:// cannot create a file on the condition"),
    ("validate.history=http://host/x", "validate.history = 'http://host/x': http:// cannot create a file on the condition"),
    ("run.dir=http://host/runs", "run.dir = 'http://host/runs': http:// cannot create a file on the condition"),
    ("train=3", "--set train=3 is not of the form section.key=value."),
    ("train.rounds", "--set train.rounds is not of the form section.key=value."),
    ("train.rounds.x=3", "train.rounds"),
]


@pytest.mark.parametrize(("override", "sentence"), BAD)
def test_bad_values_are_refused_in_one_line(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_several_errors_are_all_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.round=3", "ingest.image_size=30"])
    assert "train.round" in str(caught.value)
    assert "image_size" in str(caught.value)


@pytest.mark.parametrize(
    ("topology", "batch_size", "sentence"),
    [
        ("v5e:2x4", 60, "is invalid: global_batch_size = 60 does not divide by 8 replicas; use 56 or 64."),
        ("v4:2x2x1", 60, "is invalid: global_batch_size = 60 does not divide by 8 replicas; use 56 or 64."),
        ("v5e:16x16", 64, "is invalid: global_batch_size = 64 does not divide by 256 replicas; use 256."),
    ],
)
def test_a_tpu_batch_must_divide_by_its_replicas(topology: str, batch_size: int, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.devices=tpu", f"deploy.tpu_topology={topology}", f"train.global_batch_size={batch_size}"])
    assert sentence in str(caught.value)


V6E = "TensorFlow does not run on TPU v6e: Google dropped its support with v6e; use v5e:2x4 or another v5e."


@pytest.mark.parametrize(
    ("platform", "topology", "sentence"),
    [
        ("vertex", "v6e:2x4", V6E),
        ("any", "v6e:2x4", V6E),
        ("vertex", "v4:2x2x1", "Vertex AI has no TPU v4 to train on; use v2:2x2, v3:2x2, v5e:1x1, v5e:2x2 or v5e:2x4."),
    ],
)
def test_a_tpu_on_which_training_fails_is_refused(platform: str, topology: str, sentence: str) -> None:
    words = [f"deploy.tpu_platform={platform}", f"deploy.tpu_topology={topology}"]
    load_config(None, words)  # valid as long as train.devices is not a TPU
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.devices=tpu", *words])
    assert f" is invalid: deploy.tpu_topology = {topology!r}: {sentence}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_hosts_are_refused_only_for_a_named_platform() -> None:
    """A slice of Cloud TPU virtual machines, on which `run` is started by hand, may have several."""
    config = load_config(None, ["train.devices=tpu:my-slice", "deploy.tpu_topology=v3:4x4"])
    assert config.deploy.tpu_platform == "any"


def test_overrides_are_toml_values_or_strings(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[train]\nrounds = 100\nseed = 4\n[ingest]\nsource = "digits"\n')
    config = load_config(file, ["train.rounds=200", "ingest.source=images:/some/where", "train.beta_1=0.5"])
    assert (config.train.rounds, config.train.seed, config.train.beta_1) == (200, 4, 0.5)
    assert config.ingest.source == "images:/some/where"


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no config file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[train\n")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(tmp_path / "broken.toml")


def test_a_config_is_frozen_and_survives_json() -> None:
    config = load_config(None, ["train.rounds=7"])
    with pytest.raises(ValidationError, match="frozen"):
        config.train.rounds = 8  # type: ignore[misc]
    assert RunConfig.model_validate_json(config.model_dump_json(by_alias=True)) == config


def test_a_toml_file_has_what_differs_from_the_defaults_and_reads_back(tmp_path: Path) -> None:
    overrides = ['ingest.source=images:/data/Bär "x"', "ingest.beam_options=['--a', '--b']", "validate.min_deviation=0.5"]
    config = load_config(None, overrides, {"train.critic_learning_rate": 1e-5, "validate.min_deviation": 2.0})
    text = as_toml(config, ["Why", "and how"])
    assert text.startswith("# Why\n# and how\n\n[ingest]\n")
    assert text.count("=") == 4
    (tmp_path / "config.toml").write_text(text)
    assert load_config(tmp_path / "config.toml") == config
    assert config.validation.min_deviation == 0.5
    assert as_toml(RunConfig()) == "\n"


def test_overrides_by_key() -> None:
    assert override_values(["a.b=1", " a.c = x y"]) == {"a.b": 1, "a.c": " x y"}
    with pytest.raises(ConfigError, match="is not of the form"):
        override_values(["ab"])


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = resolve_paths(load_config(None, ["ingest.source=images:pictures/*.png", "run.dir=r"]))
    assert config.ingest.source == f"images:{tmp_path}/pictures/*.png"
    assert config.run.dir == str(tmp_path / "r")
    assert config.push.registry == str(tmp_path / "r" / "registry")
    assert config.run.work_dir == str(tmp_path / "r" / ".work")


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "configs").glob("*.toml")), ids=lambda file: file.name)
def test_shipped_configs_are_valid_and_state_their_cost(file: Path) -> None:
    load_config(file)
    head = file.read_text().split("\n\n")[0]
    assert head.startswith("# ")
    assert "wgan-pipeline run" in head


def test_each_source_has_its_own_history() -> None:
    def place(*overrides: str) -> str:
        return str(resolve_paths(load_config(None, ["run.dir=/runs", *overrides])).validation.history)

    assert place() == "/runs/snapshots/digits"
    names = {place(f"ingest.source={source}") for source in ("images:/a/b", "images:/a-b", "tfds:a/b", "images:/A/b")}
    assert len(names) == 4
    assert all(re.fullmatch(r"/runs/snapshots/[a-z0-9_.-]+-[0-9a-f]{8}", name) for name in names)
    assert place("ingest.source=images:x") == place(f"ingest.source=images:{Path('x').absolute()}")
    assert place("validate.history=/kept") == "/kept"
    assert place("validate.history=s3://bucket/kept") == "s3://bucket/kept"


class TestReference:
    """`wgan-pipeline config` and docs/configuration.md."""

    SECTIONS = ("run", "ingest", "validate", "train", "evaluate", "gate", "push", "deploy")

    def test_the_document_is_current(self) -> None:
        file = Path(__file__).parents[3] / "docs" / "configuration.md"
        assert file.read_text() == as_markdown(), "wgan-pipeline config --markdown > docs/configuration.md"

    def test_every_key_of_every_section_is_described(self) -> None:
        code, text = run("config")
        assert code == 0
        assert [line.partition("]")[0][1:] for line in text.splitlines() if line.startswith("[")] == list(self.SECTIONS)
        for name in self.SECTIONS:
            section = getattr(RunConfig(), "validation" if name == "validate" else name)
            keys = list(keys_of(type(section)))
            assert [key.name for key in keys] == list(type(section).model_fields)
            for key in keys:
                assert key.meaning.endswith("."), f"{name}.{key.name} needs a description"
                assert f"{key.name} = {key.default}  ({key.type})\n    {key.meaning}\n" in text

    def test_one_section_with_types_and_bounds(self) -> None:
        code, text = run("config", "train")
        assert code == 0
        assert text.startswith("[train]  ")
        assert "\nrounds = 1000  (integer, ≥ 1)\n" in text
        assert '\noptimizer = "adam"  ("adam" or "sgd")\n' in text
        assert "[run]" not in text

    def test_an_unknown_section_is_refused(self) -> None:
        assert run("config", "trian") == (
            2,
            "There is no section trian. Use run, ingest, validate, train, evaluate, gate, push, deploy.",
        )


@pytest.mark.parametrize(("value", "cpu"), [("1", "1"), ("0.5", "0.5"), ("4.0", "4"), ("500m", "500m"), ('"2"', "2")])
def test_a_quantity_may_be_a_number(tmp_path: Path, value: str, cpu: str) -> None:
    assert load_config(None, [f"deploy.cpu={value}"]).deploy.cpu == cpu
    file = tmp_path / "c.toml"
    file.write_text(f"[deploy]\ncpu = {value if value[-1] != 'm' else repr(value)}\n")
    assert load_config(file).deploy.cpu == cpu
