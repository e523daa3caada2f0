"""The Beam graph has the same size for one image and for a hundred million."""

from __future__ import annotations

import pytest

from components.ingest.beam.pipeline import build
from components.ingest.beam.runner import new_pipeline
from components.ingest.beam.tasks import worker_settings
from components.ingest.config import LOCAL_RUNNER, IngestConfig


def graph(chunks: int, max_bits: int) -> bytes:
    pipeline = new_pipeline((LOCAL_RUNNER,))
    build(pipeline, chunks, worker_settings(IngestConfig(), "gs://bucket/folder", "key"), max_bits)
    return bytes(pipeline.to_runner_api().SerializeToString())


@pytest.mark.parametrize("max_bits", [-1, 6])
def test_graph_does_not_grow_with_the_source(max_bits: int) -> None:
    few, many = graph(1, max_bits), graph(400_000, max_bits)
    assert abs(len(many) - len(few)) < 200
    assert len(many) < 100_000
