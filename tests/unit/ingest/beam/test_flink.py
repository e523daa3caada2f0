"""Which pipelines run on a Flink cluster. tests/pipeline/test_flink_cluster.py cancels a job on a real one."""

from __future__ import annotations

import pytest

from components.ingest.beam.flink import cancel, is_cluster
from components.ingest.beam.runner import new_pipeline


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--runner=FlinkRunner", "--flink_master=job-manager:8081"), True),
        (("--runner", "apache_beam.runners.portability.flink_runner.FlinkRunner", "--flink_master", "https://flink:443"), True),
        (("--runner=FlinkRunner", "--flink_master=[local]"), False),
        (("--runner=FlinkRunner",), False),
        (("--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner", "--flink_master=job-manager:8081"), False),
        ((), False),
    ],
)
def test_a_flink_master_that_is_an_address_is_a_cluster(options: tuple[str, ...], expected: bool) -> None:
    assert is_cluster(new_pipeline(options)) is expected


def test_a_cluster_that_does_not_answer_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused"):
        cancel("http://127.0.0.1:9", "wgan-1")
