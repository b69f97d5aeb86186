"""A Slurm cluster on this machine: two nodes of one core, in a temporary folder, gone afterwards.

Nothing is installed or configured: munged, slurmctld and two slurmd run in the foreground as children of
the test, under the same user, on free ports, with their own key, socket and state.
"""

import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

import psutil

NODES = ("n1", "n2")
# Debian keeps daemons where only root's PATH looks.
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
MISSING = [tool for tool in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(tool, path=PATH)]
"""What is not installed here; a cluster can be started when this is empty."""

# proctrack/pgid and task/none: a container may have no cgroups. config_overrides: a node has the one core
# written here, whatever the machine has. JobRequeue=0: a job starts again after its node died only if it asks
# for that; then as soon as the node counts as down, silent for SlurmdTimeout, and cred_expire has passed.
CONFIGURATION = """\
ClusterName=fourfold
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobRequeue=0
SlurmdTimeout=5
TCPTimeout=1
MessageTimeout=3
KillWait=2
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=8000
PartitionName=book Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

COMMANDS = {
    # --force: a folder under /tmp is no place for a secret that lasts.
    "munged": "munged --foreground --force --socket={folder}/munge.socket --key-file={folder}/munge.key"
    " --seed-file={folder}/munge.seed --pid-file={folder}/munged.pid",
    "slurmctld": "slurmctld -D",
    "n1": "slurmd -D -N n1",
    "n2": "slurmd -D -N n2",
}


class Cluster:
    """What a test does with a running cluster; ``env`` is what its clients need in their environment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder}:{Path(sys.executable).parent}:{PATH}",
        }
        self._machines: dict[str, psutil.Popen] = {}

    def start(self, name: str) -> None:
        """Start ``munged``, ``slurmctld`` or a node, in the foreground, its output in its log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self._machines[name] = psutil.Popen(
                [sys.executable, __file__, *COMMANDS[name].format(folder=self.folder).split()],
                env=os.environ | self.env,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        """SIGKILL a daemon and all that it started, its jobs too: for a node, the power is cut."""
        machine = self._machines.pop(name)
        while machine.poll() is None:
            processes = machine.children(recursive=True)
            # Stopped before the first one dies, so that none can report the death of another.
            for signal_ in (signal.SIGSTOP, signal.SIGKILL):
                for process in processes:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal_)
            time.sleep(0.02)

    def shadow(self, client: str, script: str) -> None:
        """Put a shell script in a client's place; ``$CLIENT "$@"`` in it is the client itself."""
        shadow = self.folder / client
        shadow.write_text(f"#!/bin/sh\nCLIENT={shutil.which(client, path=PATH)}\n{script}\n")
        shadow.chmod(0o755)

    def run(self, command: str) -> str:
        """What a Slurm client prints."""
        return subprocess.run(
            command.split(), env=os.environ | self.env, check=True, capture_output=True, text=True, timeout=30
        ).stdout

    def sinfo(self) -> dict[str, str]:
        """The state of each node, such as ``idle``, ``allocated`` or ``down``."""
        lines = self.run("sinfo --noheader --Node --format=%N|%T").split()
        return dict(line.rstrip("*").split("|") for line in lines)

    def jobs(self) -> list[dict[str, str | int]]:
        """Every end of a job so far, in order: number, what it made, node, state and seconds.

        A job that lost its node ends there, and again where it ran next.
        """
        comments = self.run("squeue --noheader --states=all --format=%i|%k").split()
        made = dict(line.split("|") for line in comments)
        rows: list[dict[str, str | int]] = []
        for line in (self.folder / "jobs.txt").read_text().splitlines():
            end = dict(word.split("=", 1) for word in line.split() if "=" in word)
            started, ended = (datetime.fromisoformat(end[time]) for time in ("StartTime", "EndTime"))
            rows.append(
                {
                    "job": int(end["JobId"]),
                    "made": made[end["JobId"]].removeprefix("rule_").replace("_wildcards_", " "),
                    "node": end["NodeList"],
                    "state": end["JobState"],
                    "seconds": int((ended - started).total_seconds()),
                }
            )
        return rows

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: if it does not come true; with the tail of every daemon's log.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} within {seconds} s\n{self.log()}")
            time.sleep(0.1)

    def said(self, words: str) -> str:
        """The first line of the controller's log with these words in it."""
        lines = (self.folder / "slurmctld.log").read_text().splitlines()
        return next((line.removeprefix("slurmctld: ") for line in lines if words in line), "")

    def log(self) -> str:
        """The last lines of every daemon's log."""
        return "\n".join(
            f"--- {log.stem}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            for log in sorted(self.folder.glob("*.log"))
        )

    def stop(self) -> None:
        """Kill everything that was started, nodes first."""
        for name in reversed(list(self._machines)):
            self.kill(name)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A running cluster, both nodes idle; afterwards no process and no file of it is left.

    Raises:
        TimeoutError: if it does not come up; with the daemons' logs.
    """
    with ExitStack() as stack:
        # A socket's path has at most 107 characters, too few for pytest's folders.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        (folder / "state").mkdir()
        (folder / "munge.key").touch(mode=0o600)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        ports = dict(zip(("controller", *NODES), _free_ports(3), strict=True))
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=folder, host=socket.gethostname(), user=getpass.getuser(), **ports)
        )
        ours = Cluster(folder)
        # Within a job the executor takes every SLURM_ variable from srun's environment: on a cluster for
        # everybody the configuration lies in /etc.
        ours.shadow("srun", f'SLURM_CONF={folder}/slurm.conf exec $CLIENT "$@"')
        stack.callback(ours.stop)
        ours.start("munged")
        ours.until((folder / "munge.socket").exists, "munge socket")
        for daemon in ("slurmctld", *NODES):
            ours.start(daemon)
        ours.until(lambda: _states(ours) == dict.fromkeys(NODES, "idle"), "two idle nodes")
        yield ours


def _states(ours: Cluster) -> dict[str, str]:
    try:
        return ours.sinfo()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return {}  # the controller does not answer yet


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def _as_init(command: list[str]) -> None:
    """Run a daemon as the first process of a machine does: adopt and reap whatever it leaves behind.

    So all that a node started are descendants of one process. The daemon ends if the test is killed.
    """
    prctl = ctypes.CDLL(None).prctl
    end_with_parent = partial(prctl, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    end_with_parent()
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    subprocess.Popen(command, preexec_fn=end_with_parent)
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    _as_init(sys.argv[1:])
