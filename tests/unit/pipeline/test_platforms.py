"""The table of TPUs: rows against Google's own figures, and every refusal with its error; requests: tests/targets/golden."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.tpu_check.slices import SLICES, find_slice
from pipeline.platforms import ROWS, TpuRow, check_tensorflow_runs, find_training_row

GKE = [row for row in ROWS if row.platform == "gke"]
VERTEX = [row for row in ROWS if row.platform == "vertex"]

# singleHostTopologyMap and machineFamilyForTpuType of GKE's autoscaler (docs/tpu.md), which the table was not written from.
GKE_SINGLE_HOST = {
    "ct3-hightpu-4t": ("tpu-v3-device", "2x2"),
    "ct4p-hightpu-4t": ("tpu-v4-podslice", "2x2x1"),
    "ct5lp-hightpu-1t": ("tpu-v5-lite-podslice", "1x1"),
    "ct5lp-hightpu-4t": ("tpu-v5-lite-podslice", "2x2"),
    "ct5lp-hightpu-8t": ("tpu-v5-lite-podslice", "2x4"),
    "ct5p-hightpu-4t": ("tpu-v5p-slice", "2x2x1"),
    "ct6e-standard-1t": ("tpu-v6e-slice", "1x1"),
    "ct6e-standard-4t": ("tpu-v6e-slice", "2x2"),
    "ct6e-standard-8t": ("tpu-v6e-slice", "2x4"),
}
# Machine type, chips and machines by topology: the tables of "Configure compute resources", the same for v5e and v6e.
VERTEX_TABLE = {
    "1x1": ("1t", 1, 1),
    "2x2": ("4t", 4, 1),
    "2x4": ("8t", 8, 1),
    "4x4": ("4t", 16, 4),
    "4x8": ("4t", 32, 8),
    "8x8": ("4t", 64, 16),
    "8x16": ("4t", 128, 32),
    "16x16": ("4t", 256, 64),
}
SINGLE_HOST_GKE = "use v3:2x2, v4:2x2x1, v5e:1x1, v5e:2x2, v5e:2x4 or v5p:2x2x1"
SINGLE_HOST_VERTEX = "use v2:2x2, v3:2x2, v5e:1x1, v5e:2x2 or v5e:2x4"


def name_of(row: TpuRow) -> str:
    return f"{row.platform} {row.slice.name}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_a_row_is_consistent(row: TpuRow) -> None:
    generation, topology = row.slice.name.split(":")
    assert (row.slice.generation.name, row.slice.topology) == (generation, topology)
    assert row.slice.chips == math.prod(map(int, topology.split("x"))) == row.hosts * row.chips_per_host
    assert row.slice.replicas == row.slice.chips * (2 if generation in ("v2", "v3", "v4") else 1)
    in_machine_type = re.search(r"-(\d)t$", row.machine_type)
    assert row.chips_per_host == (int(in_machine_type[1]) if in_machine_type else 4)


def test_rows_are_unique() -> None:
    assert len({(row.platform, row.slice.name) for row in ROWS}) == len(ROWS)
    assert {row.slice.name for row in ROWS} == set(SLICES)


def test_gke_single_host_rows_match_its_autoscaler() -> None:
    single = {row.machine_type: (row.accelerator, row.slice.topology) for row in GKE if row.hosts == 1}
    assert single == GKE_SINGLE_HOST


@pytest.mark.parametrize(("generation", "family"), [("v5e", "ct5lp-hightpu"), ("v6e", "ct6e-standard")])
def test_vertex_rows_match_its_documentation(generation: str, family: str) -> None:
    rows = [row for row in VERTEX if row.slice.generation.name == generation]
    found = {row.slice.topology: (row.machine_type, row.slice.chips, row.hosts) for row in rows}
    assert found == {shape: (f"{family}-{size}", chips, hosts) for shape, (size, chips, hosts) in VERTEX_TABLE.items()}


@given(st.text(alphabet="v23456epx:1 ", max_size=8))
def test_any_name_is_a_slice_or_an_error_with_a_cure(name: str) -> None:
    try:
        assert find_slice(name).name == name
    except ValueError as error:
        assert name not in SLICES
        assert re.search(r"\buse .*v5e:|\buse v\d", str(error))  # noqa: PT017 - both outcomes are right, and each is checked


REFUSED = [
    (
        "vertex",
        "v6e:2x4",
        "TensorFlow does not run on TPU v6e: Google dropped its support with v6e; use v5e:2x4 or another v5e",
    ),
    (
        "gke",
        "v6e:1x1",
        "TensorFlow does not run on TPU v6e: Google dropped its support with v6e; use v5e:2x4 or another v5e",
    ),
    ("vertex", "v4:2x2x1", f"Vertex AI has no TPU v4 to train on; {SINGLE_HOST_VERTEX}"),
    ("vertex", "v5p:2x2x1", f"Vertex AI has no TPU v5p to train on; {SINGLE_HOST_VERTEX}"),
    ("gke", "v2:2x2", f"GKE has no TPU v2 to train on; {SINGLE_HOST_GKE}"),
    (
        "gke",
        "v5e:4x4",
        f"v5e:4x4 needs 4 hosts on GKE, but a task of a Kubeflow pipeline is one pod on one host; {SINGLE_HOST_GKE}",
    ),
    (
        "vertex",
        "v3:4x4",
        "v3:4x4 needs 4 hosts on Vertex AI, for which Vertex AI needs its own image with Python 3.8 or 3.10, and "
        f"this program needs Python 3.11; {SINGLE_HOST_VERTEX}",
    ),
]


@pytest.mark.parametrize(("platform", "name", "sentence"), REFUSED, ids=[f"{platform} {name}" for platform, name, _ in REFUSED])
def test_slices_that_do_not_train_are_refused_with_the_reason(platform: str, name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        find_training_row(platform, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_each_row_is_used_or_refused(row: TpuRow) -> None:
    trains = row.slice.generation.tensorflow and row.hosts == 1
    if trains:
        assert find_training_row(row.platform, row.slice.name) == row
        assert check_tensorflow_runs(row.slice.name) == row.slice
    else:
        with pytest.raises(ValueError, match="use "):
            find_training_row(row.platform, row.slice.name)
