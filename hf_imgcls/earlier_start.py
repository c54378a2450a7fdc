"""What an earlier start has left in a run's folder: this very run, finished or not, another one, or half of a file.

Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.parse import known_arguments
from hf_imgcls.arguments.recipe import to_recipe
from hf_imgcls.arguments.training_policy import POLICY
from hf_imgcls.digests import describe_changes, find_changes
from hf_imgcls.errors import OutputError, UserError
from hf_imgcls.layout import RUN_FILE
from hf_imgcls.process import is_main_process
from hf_imgcls.records import RunRecord

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


class RunFinished(SystemExit):
    """The folder holds the very run that was asked for, finished."""


# What a finished run may be asked for again without being another run.
_NOT_THE_RUN = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "num_processes", "training_policy")
# Half written: a record (ending as `write_json` has it), a table (with a process id), a card, a report, an export.
_LEFTOVER = re.compile(
    r"\.write_probe|\..+\.json\.\w{8}|\..+\.parquet\.\d+|\..+\.unfinished|\.unfinished-\w{8}|\.export\.partial"
)


def check_earlier_run(folder: Path, args: Arguments) -> bool:
    """Whether the folder holds this very run, unfinished: then it goes on, also with ``overwrite_output_dir``."""
    if not (folder / RUN_FILE).exists():
        return False
    try:
        run = RunRecord.load(folder / RUN_FILE)
    except UserError:
        if args.fit.overwrite_output_dir:
            return False
        raise
    if run.state == "finished" and args.fit.overwrite_output_dir:
        return False
    changed = list_changed_arguments(run, args)
    if run.state != "finished":
        if not changed and args.fit.overwrite_output_dir:
            args.notes.append(
                "overwrite_output_dir: the folder holds this very run, unfinished, which goes on; "
                "--resume_from_checkpoint false begins anew."
            )
        return not changed
    if changed:
        raise _holds_other_run(folder, changed)
    raise _leave_finished(folder, run, args)


def read_start(folder: Path) -> tuple[str, str] | None:
    """When the run in a folder was started last, and how it stands; None without one."""
    if not (folder / RUN_FILE).is_file():
        return None
    with contextlib.suppress(UserError):  # `check_earlier_run` has said so
        run = RunRecord.load(folder / RUN_FILE)
        return run.started_at, run.state
    return None


def join_run(folder: Path, args: Arguments) -> None:
    """Leave the folder to the very run that another start of it has finished while this one waited for the folder.

    Raises:
        OutputError: It has other arguments.
        SystemExit: With that run's exit code.
    """
    run = RunRecord.load(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else None
    if run is None or run.state != "finished":
        return
    if changed := list_changed_arguments(run, args):
        if args.fit.overwrite_output_dir:
            return
        raise _holds_other_run(folder, changed)
    raise _leave_finished(folder, run, args)


def list_changed_arguments(run: RunRecord, args: Arguments) -> list[str]:
    """The arguments by which another run would come of it: ``name: this then, that now``."""
    now = json.loads(json.dumps(to_recipe(args), default=str))
    published = {name for name, argument in known_arguments().items() if argument.group == "publish"}
    names = [name for name in (now | run.recipe) if name not in published.union(_NOT_THE_RUN)]
    # What was left open then and is now gets the same value once data and model are known.
    left_open = list_left_open(run) - args.explicit if args.fit.training_policy == "auto" else set()
    changed = [
        f"{name}: {run.recipe.get(name)!r} then, {now.get(name)!r} now"
        for name in names
        if run.recipe.get(name) != now.get(name) and name not in left_open
    ]
    return changed + ([f"hooks: {run.hooks} then, {args.hooks} now"] if run.hooks != args.hooks else [])


def list_left_open(run: RunRecord) -> set[str]:
    """Return the arguments that a run's user had left open, and that it has gone by all the same."""
    if "training_policy" in run.recipe:
        return set(run.policy)
    return {row.name for row in POLICY} & run.recipe.keys()  # of a release without a policy


def _holds_other_run(folder: Path, changed: list[str]) -> OutputError:
    return OutputError(
        f"output_dir {folder} holds a finished run with other arguments:\n  - " + "\n  - ".join(changed),
        "an empty folder, or an unfinished run to go on with",
        "choose another --output_dir, or pass --overwrite_output_dir to replace the run",
    )


def _leave_finished(folder: Path, run: RunRecord, args: Arguments) -> RunFinished:
    """Say that a folder holds this very run, finished, and what has changed in it since; end as the run did."""
    if is_main_process():
        push = f" To push it: hf-imgcls push {folder}." if args.training.get("push_to_hub") else ""
        print(f"The run in {folder} is finished; pass --overwrite_output_dir to run it again.{push}", file=sys.stderr)
        if changes := describe_changes(find_changes(folder)):
            print(f"Warning: {folder} was changed. {changes}", file=sys.stderr)
    return RunFinished(run.exit_code)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill has left half written: hidden files and folders of ours, none of which anybody reads.

    Args:
        folder: A run's folder, locked. Checkpoints have leftovers of their own, see `hf_imgcls.fit.checkpoints`.
    """
    for place in (folder, *folder.glob("*/")):
        for path in place.glob(".*"):
            if _LEFTOVER.fullmatch(path.name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
