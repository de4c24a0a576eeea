"""What happens when a chapter is opened: its parameters, device, folder; and what of them was changed."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reprobook import params as params_module
from reprobook.errors import ReprobookError
from reprobook.project import root

if TYPE_CHECKING:
    import torch

_PLACE = ("device", "out_dir")  # where a run happens; they don't say what it computes


def parameters(slug: str, given: Mapping[str, Any], names: Mapping[str, Any] | None) -> dict[str, Any]:
    """The run's parameters, validated: ``given``, and what the cell declares as found in ``names`` (``globals()``)."""
    declared = params_module.read_parameters(slug)
    missing = [name for name in declared if names is not None and name not in names]
    if missing:
        raise params_module.ParameterError(f"{', '.join(missing)} not set: run the parameters cell first")
    values = {name: names[name] for name in declared} if names is not None else {}
    return {name: params_module.check_value(declared[name], value) for name, value in {**values, **given}.items()}


def changed(slug: str, values: Mapping[str, Any]) -> list[str]:
    """Names of the parameters that differ from those of the run's scale (device and out_dir don't count)."""
    usual = params_module.resolve(slug, values["scale"])
    return [name for name, value in values.items() if name not in _PLACE and value != usual[name]]


def quiet_progress_bars() -> None:
    """Keep the bars of the Hugging Face libraries out of stored outputs, whether they are imported already or later."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    for module, switch in (
        ("huggingface_hub.utils", "disable_progress_bars"),
        ("datasets", "disable_progress_bars"),
        ("transformers.utils.logging", "disable_progress_bar"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], switch)()


def open_device(name: str) -> torch.device:
    """``auto``: the GPU if there is one. Raises :class:`ReprobookError` for a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ReprobookError(
            f"device {name!r} is not available here; use 'auto', 'cpu' or, with a GPU, 'cuda:0'"
        ) from error
    return device


def open_folder(slug: str, scale: str, seed: int, out_dir: str) -> Path:
    """``out_dir``, or a fresh folder. An earlier record is set aside: it must not pass for the record of this run."""
    if not out_dir:
        parent = root() / "runs" / slug / "adhoc"
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{scale}-seed{seed}-", dir=parent))
    folder = Path(out_dir).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "record.json").exists():
        (folder / "record.json").replace(folder / "record.previous.json")
    return folder
