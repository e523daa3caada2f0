"""Starts the real Apache Flink: a job manager and two task managers, each a Java process in a network namespace of its own.

An object store (fake-gcs-server, as in object_store.py) and the programs that submit jobs are in a fourth one. Flink's code
comes from Maven with Beam's job server. Beam's own jars are not on the cluster: the job brings them, as on any other.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.engines import ENGINES, flink_job_server, installed_program
from tests.support.local_runs import wait_for
from tests.support.namespaces import Machine, network

ENTRY = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
RUNNER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
STORE_PORT, REST_PORT = 4443, 8081
# Flink's scripts compute these; without the scripts, a task manager wants each of them. 32 MB for the network are too few:
# a shuffle of a batch job wants 512 buffers of 32 kB.
TASK_MANAGER = {"taskmanager.cpu.cores": 1.0, "taskmanager.numberOfTaskSlots": 2}
TASK_MANAGER |= {
    f"taskmanager.memory.{part}": size
    for part, size in {
        "task.heap.size": "128m", "framework.heap.size": "128m", "task.off-heap.size": "64m", "framework.off-heap.size": "128m",
        "managed.size": "64m", "network.min": "128m", "network.max": "128m", "jvm-metaspace.size": "256m",
        "jvm-overhead.min": "64m", "jvm-overhead.max": "64m",
    }.items()
}  # fmt: skip
JAVA = ["-Xmx256m", "-XX:MaxDirectMemorySize=320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
# What Flink opens of Java 17 in its own configuration.
PACKAGES = ("lang", "lang.reflect", "net", "io", "nio", "text", "time", "util", "util.concurrent", "util.concurrent.atomic")
OPEN = ["--add-exports=java.base/sun.net.util=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"]
OPEN += [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES]
REGISTERED = "Successful registration at resource manager"
UPLOAD = re.compile(r'msg="(\S+) - - \[[^\]]*\] \\"POST /upload')


class Cluster:
    """A running cluster: the machine of the object store and of submitted jobs, the job manager's, and two task managers'."""

    def __init__(self, folder: Path, machines: list[Machine], settings: dict[str, str]) -> None:
        self.folder = folder
        self.store, self.job_manager, *self.task_managers = machines
        self._settings = {
            "jobmanager.rpc.address": self.job_manager.address, "rest.address": self.job_manager.address,
            "rest.bind-address": "0.0.0.0", "cluster.evenly-spread-out-slots": "true",
            "heartbeat.interval": 1000, "heartbeat.timeout": 30_000, **settings,
        }  # fmt: skip
        self.environment = {"STORAGE_EMULATOR_HOST": f"http://{self.store.address}:{STORE_PORT}"}
        self.options = [
            "--runner=FlinkRunner", f"--flink_master={self.job_manager.address}:{REST_PORT}",
            f"--flink_job_server_jar={flink_job_server()}", "--parallelism=2", "--environment_type=PROCESS",
            f"--environment_config={json.dumps({'command': str(Path(sys.executable).with_name('wgan-beam-worker'))})}",
        ]  # fmt: skip

    def start(self, buckets: Path) -> None:
        """Start all servers; each folder in `buckets` is a bucket of the object store."""
        url = self.environment["STORAGE_EMULATOR_HOST"]
        options = ["-scheme=http", f"-host={self.store.address}", f"-port={STORE_PORT}", "-backend=memory", f"-data={buckets}"]
        options += [f"-external-url={url}", f"-public-host={url.removeprefix('http://')}"]
        self.store.start([str(installed_program("fake-gcs-server")), *options], self.folder / "store.log")
        self._start_java(self.job_manager, "job-manager", ENTRY, {})
        self._task_managers = [
            self._start_java(machine, f"task-manager-{number}", RUNNER, {"taskmanager.host": machine.address, **TASK_MANAGER})
            for number, machine in enumerate(self.task_managers)
        ]
        logs = [self.folder / f"task-manager-{number}" / "log" for number, _ in enumerate(self._task_managers)]
        wait_for(lambda: self._have_ended() or all(REGISTERED in log.read_text() for log in logs))
        assert not self._have_ended(), logs[0].read_text()

    def _have_ended(self) -> bool:
        return any(process.poll() is not None for process in self._task_managers)

    def _start_java(self, machine: Machine, name: str, main: str, settings: dict[str, Any]) -> subprocess.Popen[bytes]:
        home = self.folder / name
        home.mkdir()
        settings = {**self._settings, "io.tmp.dirs": home, "taskmanager.resource-id": name, **settings}
        (home / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        jars = sorted(jar for jar in (ENGINES / "jars").glob("*.jar") if not jar.name.startswith("beam-"))
        command = ["java", *JAVA, *OPEN, f"-Djava.io.tmpdir={home}", "-cp", ":".join(map(str, jars)), main]
        return machine.start([*command, "--configDir", str(home)], home / "log", **self.environment)

    def kill_task_manager(self, number: int) -> None:
        """Kill the Java process of a task manager, as `kill -9` does."""
        self._task_managers[number].kill()
        self._task_managers[number].wait(30)

    def uploads(self) -> list[int]:
        """Return the number of objects that each task manager's machine has written, from the access log of the store."""
        writers = UPLOAD.findall((self.folder / "store.log").read_text())
        return [writers.count(machine.address) for machine in self.task_managers]


@contextlib.contextmanager
def flink_cluster(folder: Path, buckets: Path, settings: dict[str, str]) -> Iterator[Cluster]:
    """Run a cluster with more `settings` for Flink. Raises EngineMissingError and NamespacesMissingError."""
    flink_job_server()
    with network(4) as machines:
        cluster = Cluster(folder, machines, settings)
        cluster.start(buckets)
        yield cluster
