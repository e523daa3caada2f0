"""The errors of Beam's runners, in all their forms, become one sentence."""

from __future__ import annotations

import pytest

from components.common.errors import ArtifactError, DataRejectedError, PipelineError
from components.common.store import writing
from components.ingest.beam.runner import unwrapped
from components.ingest.beam.worker_processes import WorkerProcesses
from tests.support.local_runs import wait_for

TRACEBACK = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1512, in apache_beam.runners.common.DoFnRunner.process
  File "x.py", line 7, in write_shard
    raise ArtifactError("Cannot write x.", "Free space.")
{first}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "sdk_worker.py", line 311, in _execute
    response = task()
{last}
"""


def test_our_error_is_restored_from_the_text_of_a_traceback() -> None:
    last = "components.common.errors.ArtifactError: Cannot write x: 'full'. [while running 'Write shards'] Free space."
    text = TRACEBACK.format(first="components.common.errors.ArtifactError: Cannot write x: 'full'. Free space.", last=last)
    error = unwrapped(RuntimeError(text))
    assert isinstance(error, ArtifactError)
    assert (error.problem, error.cure) == ("Cannot write x: 'full'.", "Free space.")


def test_our_error_is_restored_from_a_runner_that_raises_it_itself() -> None:
    error = unwrapped(DataRejectedError("Bad. [while running 'Decode']", "Repair it."))
    assert isinstance(error, DataRejectedError)
    assert (error.problem, error.cure) == ("Bad.", "Repair it.")
    plain = unwrapped(DataRejectedError("Bad.", "Repair it."))
    assert str(plain) == "Bad. Repair it."


def test_other_errors_are_reported_with_their_step() -> None:
    text = TRACEBACK.format(first="KeyError: 'a'", last="KeyError: \"'a' [while running 'Drop duplicates']\"")
    error = unwrapped(RuntimeError(text))
    assert str(error) == (
        "The Beam pipeline failed: KeyError: \"'a' [while running 'Drop duplicates']\". Run with --debug for the traceback."
    )
    assert type(error) is PipelineError


def test_errors_without_a_message_and_with_a_long_one() -> None:
    assert "RuntimeError" in str(unwrapped(RuntimeError()))
    assert len(str(unwrapped(ValueError("x" * 10_000)))) < 600


FLINK = "Pipeline BeamApp-root-1126_3b6f failed in state FAILED: "
JAVA_TRACE = """org.apache.flink.runtime.rest.util.RestClientException: [Could not upload job files.
\tat org.apache.flink.runtime.rest.handler.job.JobSubmitHandler.lambda$uploadJobGraphFiles$4(JobSubmitHandler.java:201)
Caused by: java.io.IOException: Could not connect to BlobServer at address localhost/127.0.0.1:36539
\tat org.apache.flink.runtime.blob.BlobClient.<init>(BlobClient.java:103)
\t... 11 more
]"""


def test_errors_of_flink_are_reported_without_the_name_of_the_job_and_java_traces_with_their_cause() -> None:
    short = unwrapped(RuntimeError(f"{FLINK}java.net.NoRouteToHostException: No route to host"))
    assert "The Beam pipeline failed: java.net.NoRouteToHostException: No route to host. " in str(short)
    assert "failed: java.io.IOException: Could not connect to BlobServer at" in str(unwrapped(RuntimeError(JAVA_TRACE)))


@pytest.mark.parametrize(
    "message",
    [
        "org.apache.flink.runtime.jobmaster.JobMasterException: TaskManager with id tm1 is no longer reachable.",
        "java.util.concurrent.TimeoutException: Heartbeat of TaskManager with id 10.0.0.3:35-a4(10.0.0.3:39095) timed out.",
        "org.apache.flink.runtime.io.network.netty.exception.RemoteTransportException: Connection unexpectedly closed by remote"
        " task manager '10.0.0.3/10.0.0.3:39095 [ tm1 ] '. This might indicate that the remote task manager was lost.",
        "java.io.IOException: recvAddress(..) failed: Connection reset by peer",
    ],
)
def test_a_lost_task_manager_of_flink_is_a_worker_that_ended(message: str) -> None:
    assert "A Beam worker ended unexpectedly" in str(unwrapped(RuntimeError(FLINK + message)))


def test_ctrl_c_is_restored() -> None:
    assert isinstance(unwrapped(RuntimeError("KeyboardInterrupt [while running 'Decode']")), KeyboardInterrupt)
    text = TRACEBACK.format(first="KeyboardInterrupt", last="RuntimeError: KeyboardInterrupt [while running 'Decode']")
    assert isinstance(unwrapped(RuntimeError(text)), KeyboardInterrupt)


def test_write_errors_name_the_file() -> None:
    with (
        pytest.raises(ArtifactError, match=r"Cannot write train-0\.tfrecord: No space left on device\. Free space"),
        writing("train-0.tfrecord"),
    ):
        raise OSError(28, "No space left on device")


def test_a_worker_that_cannot_start_ends_all_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerProcesses() as processes:
        processes.fork({"CONTROL_API_SERVICE_DESCRIPTOR": "url: 'localhost:1'", "PIPELINE_OPTIONS": "no JSON"})
        wait_for(lambda: not processes.are_well())
    assert "JSONDecodeError" in capfd.readouterr().err


def test_worker_processes_end_with_their_pipeline(capfd: pytest.CaptureFixture[str]) -> None:
    with WorkerProcesses() as processes:
        assert processes.are_well()
    assert not processes.are_well()
    assert capfd.readouterr() == ("", "")
