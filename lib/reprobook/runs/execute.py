"""The child process of a run: papermill executes one notebook, and reports each cell to the runner through a pipe.

``python -m reprobook.runs.execute`` reads a job (JSON) from its standard input: ``notebook``, ``output``,
``parameters``, ``cwd``, ``pipe`` (a file descriptor), ``parent`` (process id) and ``package`` (the folder that the
command was imported from). Exit code 0 only says that papermill found no error; whether the run is complete is decided
by the runner.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

import psutil

from reprobook.runs.process import PACKAGE
from reprobook.runs.training_log import KERNEL_LINE

SOCKET_NAME = len("/kernel-12345678/kernel-5")


def main() -> None:
    """Execute the job; what papermill and the cells say goes to standard error, which the runner sends to log.txt."""
    job = json.load(sys.stdin)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    pipe = os.fdopen(job["pipe"], "w", buffering=1)
    kernels: list[int] = []
    stopping = Stopping(kernels)
    signal.signal(signal.SIGTERM, stopping.ask)

    def report(**message: Any) -> None:
        kernels.extend([message["kernel"]] if message.get("kernel") else [])
        with suppress(OSError):  # the runner is gone; the watching thread ends this process
            print(json.dumps(message), file=pipe)

    if job["package"] != str(PACKAGE):  # then the run id says nothing about what the kernel would run
        report(error=f"the command is of the package {job['package']}, its kernels of {PACKAGE}: install one of them")
        sys.exit(1)
    threading.Thread(target=_end_with_parent, args=(job["parent"], kernels), daemon=True).start()
    try:
        _execute(job, report, stopping)
    except OSError as error:  # of papermill itself, for instance a full disk: the log may be on it, the pipe is not
        report(error=f"{type(error).__name__}: {error.strerror or error}")
        raise


def _execute(job: dict[str, Any], report: Any, stopping: Stopping) -> None:
    # jsonschema would make a parser of international addresses, which no notebook needs: half the time of a short run
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import papermill

    def started(cell_index: int, **_: Any) -> None:
        stopping.leave()
        report(cell=cell_index)

    papermill.execute_notebook(
        job["notebook"],
        job["output"],
        parameters=job["parameters"],
        kernel_name="python3",
        progress_bar=False,
        log_output=True,
        cwd=job["cwd"],
        kernel_manager_class=kernel_manager(report),
        on_cell_start=started,
    )


class Stopping:
    """SIGTERM interrupts the cell that runs, so that a training saves; papermill then stores the notebook and ends.

    Only the first signal counts: a training takes a second interrupt for haste, and would not save."""

    def __init__(self, kernels: list[int]) -> None:
        self.kernels = kernels  # filled when papermill starts one
        self.asked = False

    def ask(self, *_: object) -> None:
        """What SIGTERM does."""
        if self.asked:
            return
        self.asked = True
        if not self.kernels:
            self.leave()
        for kernel in self.kernels:
            with suppress(ProcessLookupError):
                os.kill(kernel, signal.SIGINT)

    def leave(self) -> None:
        """End here if SIGTERM came: between two cells there is nothing to interrupt."""
        if self.asked:
            sys.exit(128 + signal.SIGTERM)


def kernel_manager(report: Any) -> type:
    """A kernel manager for this very interpreter, whatever kernels are installed, that talks through sockets in the
    file system: TCP ports are raced for when several kernels start at once. It reports the kernel's process id."""
    from ipykernel import kernelspec
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, _: str) -> KernelSpec:
            options = [f"--IPKernelApp.exec_lines={KERNEL_LINE}", "--IPKernelApp.ignore_cwd=True"]
            return KernelSpec(resource_dir=kernelspec.RESOURCES, **kernelspec.get_kernel_dict(options))

    class Manager(AsyncKernelManager):
        @default("transport")
        def _ipc(self) -> str:
            room = len(os.fsencode(os.environ["JUPYTER_RUNTIME_DIR"])) + SOCKET_NAME <= 107  # of a socket's path
            return "ipc" if os.name == "posix" and room else "tcp"

        @default("ip")
        def _private_sockets(self) -> str:
            return f"{socket_folder()}/kernel" if self.transport == "ipc" else self._ip_default()

        @default("kernel_spec_manager")
        def _this_python(self) -> KernelSpecManager:
            return ThisPython(parent=self)

        async def _async_post_start_kernel(self, **options: Any) -> None:
            await super()._async_post_start_kernel(**options)
            report(kernel=getattr(self.provisioner, "pid", None))

        post_start_kernel = _async_post_start_kernel

    return Manager


def socket_folder() -> str:
    """A fresh folder for the sockets of one kernel, readable by this user alone, inside the folder that the runner made
    for this run and removes after it.

    jupyter_client's default is the same file names for all kernels of a working directory: runs that start together
    would answer each other.
    """
    return tempfile.mkdtemp(prefix="kernel-", dir=os.environ["JUPYTER_RUNTIME_DIR"])


def _end_with_parent(parent: int, kernels: list[int]) -> None:
    """Stop, kernel and all, once the runner is gone: nobody would read the result. A kernel that trains may save."""
    while os.getppid() == parent:
        time.sleep(0.5)
    for number, patience in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 1.0)):
        for kernel in kernels:  # each leads a process group
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(kernel, number)
        end = time.monotonic() + patience
        while time.monotonic() < end and any(_lives(kernel) for kernel in kernels):
            time.sleep(0.1)
    shutil.rmtree(os.environ["JUPYTER_RUNTIME_DIR"], ignore_errors=True)
    os._exit(1)


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


if __name__ == "__main__":
    main()
