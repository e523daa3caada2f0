"""The artifacts of a run in ML Metadata, which Kubeflow's user interface reads: a gRPC client with the fields used here."""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

INPUT = 3  # the type of an event
SERVICE = "ml_metadata.MetadataStoreService"
# Names, numbers and types of the fields in ml_metadata/proto of ML Metadata 1.14, which Kubeflow Pipelines 2.17.0 runs.
FIELDS = {
    "Value": [("int_value", 1, 3), ("double_value", 2, 1), ("string_value", 3, 9), ("bool_value", 6, 8)],
    "Entry": [("key", 1, 9), ("value", 2, "Value")],
    "Artifact": [("id", 1, 3), ("uri", 3, 9), ("custom_properties", 5, ["Entry"]), ("name", 7, 9), ("type", 8, 9)],
    "Context": [("id", 1, 3), ("name", 3, 9)],
    "GetContextByTypeAndNameRequest": [("type_name", 1, 9), ("context_name", 2, 9)],
    "GetContextByTypeAndNameResponse": [("context", 1, "Context")],
    "GetArtifactsByContextRequest": [("context_id", 1, 3)],
    "GetArtifactsByContextResponse": [("artifacts", 1, ["Artifact"])],
    "Event": [("execution_id", 2, 3), ("type", 4, 5)],
    "Execution": [("custom_properties", 5, ["Entry"])],
    "GetEventsByArtifactIDsRequest": [("artifact_ids", 1, [3])],
    "GetEventsByArtifactIDsResponse": [("events", 1, ["Event"])],
    "GetExecutionsByIDRequest": [("execution_ids", 1, [3])],
    "GetExecutionsByIDResponse": [("executions", 1, ["Execution"])],
}


class Artifact(NamedTuple):
    """An artifact: its number, the step and the output that it is, its type such as system.Metrics, and its metadata."""

    id: int
    step: str
    output: str
    type: str
    uri: str
    metadata: dict[str, Any]


def artifacts_of(run_id: str, address: str) -> dict[tuple[str, str], Artifact]:
    """Return the artifacts of a run, by step and output, from ML Metadata at HOST:PORT."""
    with grpc.insecure_channel(address) as channel:
        context = _call(channel, "GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run_id).context
        found = _call(channel, "GetArtifactsByContext", context_id=context.id).artifacts
    artifacts = [_artifact(each) for each in found]
    return {(each.step, each.output): each for each in artifacts}


def readers_of(artifact: Artifact, address: str) -> set[str]:
    """Return the steps that had an artifact as an input."""
    with grpc.insecure_channel(address) as channel:
        events = _call(channel, "GetEventsByArtifactIDs", artifact_ids=[artifact.id]).events
        ids = [event.execution_id for event in events if event.type == INPUT]
        executions = _call(channel, "GetExecutionsByID", execution_ids=ids).executions
    return {_properties(execution)["task_name"] for execution in executions}


def _artifact(found: Any) -> Artifact:
    *_, step, _, output = found.uri.split("/")  # …/PIPELINE/RUN_ID/STEP/ID/OUTPUT
    return Artifact(found.id, step, output, found.type, found.uri, _properties(found))


def _properties(found: Any) -> dict[str, Any]:
    return {entry.key: value for entry in found.custom_properties for _, value in entry.value.ListFields()}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="ml_metadata.proto", package="ml_metadata", syntax="proto2")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = 3 if isinstance(kind, list) else 1
            kind = kind[0] if isinstance(kind, list) else kind
            typed = {"type": 11, "type_name": f".ml_metadata.{kind}"} if isinstance(kind, str) else {"type": kind}
            message.field.add(name=field, number=number, label=label, **typed)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ml_metadata.{name}")) for name in FIELDS}


MESSAGES = _messages()


def _call(channel: grpc.Channel, method: str, **fields: Any) -> Any:
    answer = MESSAGES[f"{method}Response"]
    serialize = MESSAGES[f"{method}Request"].SerializeToString
    call = channel.unary_unary(f"/{SERVICE}/{method}", request_serializer=serialize, response_deserializer=answer.FromString)
    return call(MESSAGES[f"{method}Request"](**fields), timeout=60)
