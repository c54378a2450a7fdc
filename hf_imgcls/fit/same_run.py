"""Whether all processes do the same run: each has parsed its own command line and read its own machine's data."""

from __future__ import annotations

import dataclasses
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from hf_imgcls.errors import LaunchError
from hf_imgcls.fit.checkpoints import list_differences
from hf_imgcls.records import RunIdentity

# Where things lie, and what a machine can do, may differ: data are compared by their contents.
_OF_THE_MACHINE = (
    "dataset_name", "model_name_or_path", "dataloader_num_workers", "dataloader_prefetch_factor", "local_rank",
    "ddp_timeout", "token", "hub_token", "config_name", "image_processor_name", "teacher_model",
)  # fmt: skip


def check_same_run_everywhere(run: RunIdentity) -> None:
    """Refuse processes with other arguments, labels, data or another model; called by all.

    Args:
        run: What this process does.

    Raises:
        LaunchError: Two processes differ; on the main process. The others leave with the same exit code.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    first, *others = gather_object([_comparable(run)])
    for rank, other in enumerate(others, 1):
        if differences := list_differences("", first, other, "in process 0", f"in process {rank}"):
            if not state.is_main_process:
                raise SystemExit(LaunchError.exit_code)
            raise LaunchError(
                f"process {rank} does another run than process 0:\n  - " + "\n  - ".join(differences),
                "the same arguments and the same data on each machine",
                "start all processes with one command line, and copy the data to each machine",
            )


def _comparable(run: RunIdentity) -> dict[str, Any]:
    recipe = {
        name: value
        for name, value in run.recipe.items()
        if name not in _OF_THE_MACHINE and not name.endswith(("_dir", "_file", "_folder"))
    }
    return dataclasses.asdict(dataclasses.replace(run, recipe=recipe))
