"""The child process of a run: papermill executes one notebook, and reports each cell to the runner through a pipe.

``python -m reprobook.runs.execute`` reads a job (JSON) from its standard input: ``notebook``, ``output``,
``parameters``, ``cwd``, ``pipe`` (a file descriptor) and ``parent`` (process id). Exit code 0 only says that papermill
found no error; whether the run is complete is decided by the runner.
"""

from __future__ import annotations

import atexit
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
from types import FrameType
from typing import Any


def main() -> None:
    """Execute the job; what papermill and the cells say goes to standard error, which the runner sends to log.txt."""
    job = json.load(sys.stdin)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    threading.Thread(target=_end_with_parent, args=(job["parent"],), daemon=True).start()
    pipe = os.fdopen(job["pipe"], "w", buffering=1)
    stopping = Stopping()
    signal.signal(signal.SIGTERM, stopping.ask)

    def started(cell: Any, cell_index: int) -> None:
        stopping.leave()
        report(cell=cell_index)

    def report(**message: Any) -> None:
        stopping.kernel = message.get("kernel", stopping.kernel)
        try:
            print(json.dumps(message), file=pipe)
        except OSError:  # the runner is gone; the watching thread ends this process
            pass

    import papermill

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

    def __init__(self) -> None:
        self.kernel: int | None = None
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            return
        self.asked = True
        if self.kernel is None:
            self.leave()
        else:
            with suppress(ProcessLookupError):
                os.kill(self.kernel, signal.SIGINT)

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
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return KernelSpec(resource_dir=kernelspec.RESOURCES, **kernelspec.get_kernel_dict())

    class Manager(AsyncKernelManager):
        @default("transport")
        def _ipc(self) -> str:
            return "ipc" if os.name == "posix" else "tcp"

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
    """A fresh folder for the sockets of one kernel, readable by this user alone, removed at exit.

    jupyter_client's default is the same file names for all kernels of a working directory: runs that start together
    would answer each other. A socket's path may have 107 bytes, so a long TMPDIR gives way to /tmp.
    """
    base = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="reprobook-", dir=base if len(os.fsencode(base)) < 70 else "/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _end_with_parent(parent: int) -> None:
    """Stop, kernel and all, once the runner is gone: nobody would read the result."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os._exit(1)


if __name__ == "__main__":
    main()
