"""A real Slurm cluster on this host: a controller and two node daemons on loopback, with munge of its own.

``python lib/tests/batch/slurm_cluster.py FOLDER`` starts one to play with, until Ctrl-C.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "squeue", "scancel", "scontrol")
NODES = ("n1", "n2")
CONFIG = """\
ClusterName=reprobook
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdTimeout=10
KillWait=15
MinJobAge=300
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs={cpus} RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a test cluster needs Linux and root"
    try:  # what its daemons ask before they listen
        socket.getaddrinfo(None, 0, socket.AF_INET, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG)
    except OSError:
        return "Slurm does not start on a machine whose only address is loopback: give it another (ip addr add)"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    return (
        f"{', '.join(absent)} not installed: `make test-slurm` as root installs Slurm on Debian and Ubuntu"
        if absent
        else None
    )


def free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """Two nodes of two processors each (both are this host); start, stop, and kill one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, {}
        for name in ("munge", "state"):
            (folder / name).mkdir(parents=True)
        (folder / "munge").chmod(0o711)
        self.config = folder / "slurm.conf"
        host, (controller, n1, n2) = socket.gethostname().partition(".")[0], free_ports(3)
        facts = {
            "host": host,
            "user": "root",
            "folder": folder,
            "controller": controller,
            "n1": n1,
            "n2": n2,
            "cpus": 2,
        }
        self.config.write_text(CONFIG.format(**facts))
        self.env = {"SLURM_CONF": str(self.config)}

    def start(self) -> None:
        """Start munge, the controller and both nodes, and wait until jobs can run."""
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        options = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        files = [f"--{option}={munge / name}" for option, name in options.items()]
        self._daemon("munged", "--foreground", "--force", *files)
        self._wait(lambda: (munge / "socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-c", "-f", str(self.config))
        for node in NODES:
            self.start_node(node)
        self._wait(lambda: self.ask("sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", "two idle nodes")

    def start_node(self, node: str) -> None:
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.config), name=node)

    def _daemon(self, *command: str, name: str | None = None) -> None:
        log = (self.folder / f"{name or command[0]}.out").open("a")
        env = {**os.environ, **self.env}
        self.daemons[name or command[0]] = subprocess.Popen(
            command, stdout=log, stderr=log, env=env, start_new_session=True
        )

    def ask(self, *command: str) -> str:
        """Output of one of Slurm's commands; empty if it fails."""
        done = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else ""

    def _wait(self, condition, what: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = "\n".join(path.read_text()[-1500:] for path in self.folder.glob("*.log"))
                raise RuntimeError(f"Slurm: no {what} after {seconds:g} s\n{logs}")
            time.sleep(0.1)

    def node_processes(self, node: str) -> list[psutil.Process]:
        """A node's daemon, the step daemons it started (they leave its tree), and all jobs below them."""
        daemon, log = psutil.Process(self.daemons[node].pid), str(self.folder / f"slurmd.{node}.log")
        steps = [p for p in psutil.process_iter() if log in _step_daemon_s_files(p)]
        return list({*(p for top in (daemon, *steps) for p in [top, *top.children(recursive=True)])})

    def kill_node(self, node: str) -> None:
        """The power of a node fails: its daemon, its step daemons and all its jobs are gone at once.

        All are stopped before the first is killed: a step daemon that outlives its job by a moment would report the
        job as ended, and Slurm would requeue nothing.
        """
        processes = self.node_processes(node)
        for act in (psutil.Process.suspend, psutil.Process.kill):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    act(process)
        self.daemons.pop(node).wait()

    def stop(self) -> None:
        """Cancel all jobs, end all daemons."""
        self.ask("scancel", "--user=root")
        with suppress(RuntimeError):
            self._wait(lambda: not self.ask("squeue", "-h").strip(), "empty queue", 30)
        for name in [*reversed(self.daemons)]:
            self.daemons[name].send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()


def _step_daemon_s_files(process: psutil.Process) -> list[str]:
    """Open files of a step daemon (its log is its node's); nothing for other processes."""
    try:
        return [file.path for file in process.open_files()] if process.name() == "slurmstepd" else []
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


if __name__ == "__main__":
    cluster = Cluster(Path(sys.argv[1]).absolute())
    cluster.start()
    print(f"export SLURM_CONF={cluster.config}", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        cluster.stop()
