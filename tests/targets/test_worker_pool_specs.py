"""Requests to Vertex AI, read as the messages of its API, which refuse unknown fields and values."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.cloud.aiplatform_v1 import CustomJobSpec, Scheduling, WorkerPoolSpec  # noqa: TID251 - the reference

from pipeline.platforms import ROWS, TpuRow, worker_pool_specs
from tests.support import golden_files

JOBS: dict[str, Any] = json.loads((golden_files.FOLDER / "vertex_custom_jobs.json").read_text())
VERTEX = [row for row in ROWS if row.platform == "vertex"]


@pytest.mark.parametrize("row", VERTEX, ids=lambda row: row.slice.name)
def test_a_row_survives_the_worker_pool_spec_message(row: TpuRow) -> None:
    (pool,) = worker_pool_specs(row, "image", ["python"], ["-c", "pass"], {"A": "1"})
    message = WorkerPoolSpec(pool)
    assert WorkerPoolSpec.from_json(json.dumps(pool)) == message
    back = WorkerPoolSpec.to_dict(message, use_integers_for_enums=False, always_print_fields_with_no_presence=False)
    assert back.pop("replica_count") == "1"
    assert back == {name: value for name, value in pool.items() if name != "replica_count"}


@pytest.mark.parametrize("name", JOBS)
def test_a_golden_custom_job_is_a_custom_job_spec(name: str) -> None:
    message = CustomJobSpec.from_json(json.dumps(JOBS[name]))
    (pool,) = message.worker_pool_specs
    row = next(row for row in VERTEX if row.slice.name == name)
    assert pool.machine_spec.machine_type == row.machine_type
    assert pool.container_spec.image_uri == golden_files.IMAGE
    assert message.scheduling.strategy == (Scheduling.Strategy.SPOT if row.hosts == 1 else Scheduling.Strategy.STANDARD)


def test_the_messages_refuse_unknown_fields() -> None:
    (pool,) = worker_pool_specs(VERTEX[0], "image", ["python"])
    with pytest.raises(ValueError, match="Unknown field"):
        WorkerPoolSpec({**pool, "topology": "2x2"})
    pool["machine_spec"]["accelerator_type"] = "TPU_V9"
    with pytest.raises(KeyError, match="TPU_V9"):
        WorkerPoolSpec(pool)
