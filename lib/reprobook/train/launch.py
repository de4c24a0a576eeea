"""One training over several processes: ``accelerate launch`` as a child of the notebook.

A kernel that touched CUDA can't be forked into several processes, so the training is a function of a module, started
in processes of its own. It finds its data and writes its checkpoints there; the notebook gets back what it returns,
and the weights from its folder::

    found = launch("reprobook.papers.x:train", {"lr": 1e-4}, folder=ch.out_dir / "checkpoints" / "main")

The function is called as ``train(folder=..., **arguments)`` in each process and calls :func:`reprobook.train.fit`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from reprobook.hardware import openmp_threads
from reprobook.train.devices import LAUNCHED
from reprobook.train.options import TrainingError
from reprobook.train.shards import WRAP

Strategy = Literal["ddp", "fsdp"]
STOP_S = 60.0  # what the processes get to save a checkpoint when they are interrupted
TAIL_LINES = 30


def launch(
    target: str,
    arguments: Mapping[str, Any],
    *,
    folder: Path,
    num_processes: int | None = None,
    strategy: Strategy = "ddp",
    wrap: str | None = None,
    cpu: bool = False,
) -> dict[str, Any]:
    """Run ``target`` ("module:function") in ``num_processes`` processes (None: one per visible GPU, at least one) and
    return what the first of them returned (plain values). ``arguments`` are plain values too.

    ``strategy`` "fsdp" shards weights, gradients and optimiser (:mod:`reprobook.train.shards`); ``wrap`` names the
    class of the layers that are sharded as units, such as "LlamaDecoderLayer". ``cpu`` uses processors and gloo.
    Interrupted, the processes save and end first. Raises :class:`TrainingError` for a wrong setting, and with the last
    lines if a process failed.
    """
    n = _processes(num_processes, cpu)
    command = launch_command(target, folder, n, strategy=strategy, wrap=wrap, cpu=cpu)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "returned.json").unlink(missing_ok=True)
    (folder / "arguments.json").write_text(json.dumps(dict(arguments)))
    code, lines = _run(command, cpu)
    if code:
        text = "\n".join(lines)
        raise TrainingError(f"launch: {target} in {n} processes ended with exit code {code}; last lines:\n{text}")
    return json.loads((folder / "returned.json").read_text())


def launch_command(
    target: str,
    folder: Path,
    num_processes: int,
    *,
    strategy: Strategy = "ddp",
    wrap: str | None = None,
    cpu: bool = False,
) -> list[str]:
    """The command line of :func:`launch`."""
    if strategy not in ("ddp", "fsdp"):
        raise TrainingError(f"launch: strategy is {strategy!r}; it must be 'ddp' or 'fsdp'")
    if (wrap is not None) != (strategy == "fsdp"):
        raise TrainingError(f"launch: wrap is {wrap!r}; it names the class of layers for 'fsdp', and only there")
    if ":" not in target:
        raise TrainingError(f"launch: target is {target!r}; write 'package.module:function'")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--num_processes", str(num_processes), "--num_cpu_threads_per_process", str(_threads(num_processes))]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    if num_processes > 1:
        command += ["--multi_gpu"]  # torch's launcher, for processors as well: accelerate's own for them wants MPI
    elif cpu:
        command += ["--cpu"]
    return [*command, "-m", "reprobook.train.launch", target, str(folder), *([wrap] if wrap else [])]


def accumulation(global_batch: int, micro_batch: int, num_processes: int) -> int:
    """Micro-steps of an update, such that ``micro_batch * num_processes * accumulation == global_batch``: the number
    of processes changes the time of a run, not the batch that the paper states."""
    steps, rest = divmod(global_batch, micro_batch * num_processes)
    if rest or not steps:
        raise TrainingError(
            f"global batch {global_batch} is not a multiple of {micro_batch} rows x {num_processes} processes: "
            "change the rows of a micro-step or the number of processes"
        )
    return steps


def _processes(wanted: int | None, cpu: bool) -> int:
    if wanted is not None and wanted < 1:
        raise TrainingError(f"launch: num_processes is {wanted}; it must be at least 1")
    if wanted is not None or cpu:
        return wanted or 1
    import torch

    return max(1, torch.cuda.device_count())


def _threads(num_processes: int) -> int:
    """Threads of each process: this process's share."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (openmp_threads(os.environ) or usable) // num_processes)


def _run(command: list[str], cpu: bool) -> tuple[int, list[str]]:
    """Exit code and last lines; all lines go on to standard error, so that a run's log has them."""
    env = {name: value for name, value in os.environ.items() if not LAUNCHED.fullmatch(name)}
    env |= {"PYTHONSAFEPATH": "1"} | ({"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if cpu else {})
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )
    lines: deque[str] = deque(maxlen=TAIL_LINES)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            lines.append(line.rstrip())
            sys.stderr.write(line)
        return child.wait(), list(lines)
    finally:  # nothing to do unless we were interrupted
        _stop(child)
        child.stdout.close()


def _stop(child: subprocess.Popen[str]) -> None:
    """End a launcher that still runs: SIGINT to all its processes, which save; what is left then is killed."""
    for number, seconds in ((signal.SIGINT, STOP_S), (signal.SIGKILL, 10.0)):
        if child.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)


def main() -> None:
    """One of the launched processes: call the function, store what the first process returns."""
    from torch.distributed.elastic.multiprocessing.errors import record

    record(_call)()


def _call() -> None:
    target, folder, *wrap = sys.argv[1:]
    module, _, name = target.partition(":")
    function, here = getattr(importlib.import_module(module), name), Path(folder)
    if wrap:
        os.environ[WRAP] = wrap[0]
    found = function(folder=here, **json.loads((here / "arguments.json").read_text()))
    if int(os.environ.get("RANK", "0")) == 0:
        temporary = here / "returned.json.tmp"
        temporary.write_text(json.dumps(found))
        temporary.replace(here / "returned.json")


if __name__ == "__main__":
    main()
