"""Machines for the tests: network namespaces with an address each on one switch. No root is needed, only user namespaces.

Nothing has a name outside: when the processes in the namespaces have ended, nothing is left. The kernel kills them when the
tests are killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.local_runs import wait_for

TOOLS = ("unshare", "nsenter", "setpriv", "ip")
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
SWITCH = ("link set lo up", "link add switch type bridge", "addr add 10.0.0.1/24 dev switch", "link set switch up")
HOLDER = (*DIES_WITH_US, "sleep", "infinity")


class NamespacesMissingError(Exception):
    """This machine cannot make network namespaces; the message says why."""


class Machine:
    """A network namespace, held open by a process that sleeps."""

    def __init__(self, address: str, command: list[str]) -> None:
        self.address = address
        self._programs: list[subprocess.Popen[bytes]] = []
        self._holder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: self._holder.poll() is not None or self._comm() == "sleep", seconds=30)
        if self._holder.poll() is not None:
            raise NamespacesMissingError(f"no network namespaces here: {self._holder.communicate()[1].strip()}")
        self.entered = ["nsenter", f"--target={self._holder.pid}", "--user", "--net", "--preserve-credentials"]

    def _comm(self) -> str:
        return Path(f"/proc/{self._holder.pid}/comm").read_text().strip()

    def ip(self, arguments: str) -> None:
        """Run `ip` in the namespace. Raises NamespacesMissingError, for instance from a kernel without bridges."""
        done = subprocess.run([*self.entered, "ip", *arguments.split()], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NamespacesMissingError(f"no network namespaces here: ip {arguments}: {done.stderr.strip()}")

    def attach(self, switch: Machine, name: str) -> None:
        """Connect to a switch by a cable whose other end has `name`."""
        switch.ip(f"link add {name} type veth peer name eth0 netns {self._holder.pid}")
        switch.ip(f"link set {name} master switch up")
        self.ip(f"addr add {self.address}/24 dev eth0")
        self.ip("link set eth0 up")
        self.ip("link set lo up")

    def start(self, command: list[str], output: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program, whose process is the one returned; stdout and stderr go to a file."""
        words = [*self.entered, *DIES_WITH_US, *command]
        with output.open("wb") as stream:
            program = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        self._programs.append(program)
        return program

    def processes(self) -> list[int]:
        """Return the IDs of the processes in the namespace, without the one that holds it open."""
        here = Path(f"/proc/{self._holder.pid}/ns/net").readlink()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if (folder / "ns" / "net").readlink() == here and int(folder.name) != self._holder.pid:
                    found.append(int(folder.name))
        return found

    def stop(self) -> None:
        """Kill every process in the namespace."""
        wait_for(lambda: not self._kill_all(), seconds=30)
        for program in self._programs:
            program.wait(30)
        self._holder.kill()
        self._holder.communicate()

    def _kill_all(self) -> list[int]:
        found = self.processes()
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return found


@contextlib.contextmanager
def network(machines: int) -> Iterator[list[Machine]]:
    """Yield connected machines, 10.0.0.1 first, which is also the switch. Raises NamespacesMissingError."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise NamespacesMissingError(
            f"{', '.join(missing)} missing: apt-get install -y --no-install-recommends iproute2 util-linux"
        )
    with contextlib.ExitStack() as stack:
        switch = Machine("10.0.0.1", ["unshare", "--user", "--map-root-user", "--net", *HOLDER])
        stack.callback(switch.stop)
        for arguments in SWITCH:
            switch.ip(arguments)
        found = [switch]
        for number in range(2, machines + 1):
            machine = Machine(f"10.0.0.{number}", [*switch.entered, "unshare", "--net", *HOLDER])
            stack.callback(machine.stop)
            machine.attach(switch, f"port{number}")
            found.append(machine)
        yield found
