"""The Slurm backend: job arrays through submitit, requeued with their checkpoints, asked about with squeue.

Slurm schedules; nothing here does. A job is one run: a thin supervisor that starts a worker, prints a line about it now
and then, and on Slurm's warning (before a time limit or at a preemption) stops it so that it saves, then requeues.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook.batch.child import Job, Worker, job_of, progress_line
from reprobook.batch.plan import Plan, PlanError, Resources
from reprobook.batch.tasks import Task
from reprobook.errors import ReprobookError
from reprobook.project import atomic_write, root
from reprobook.runs.process import HEARTBEAT_S, elapsed

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

END_S = 5  # of the warning time, what is left for requeueing
GONE_S = 90.0  # how long `cancel` waits for jobs to end
