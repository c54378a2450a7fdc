"""A run's folder and processes: what is checked before anything is loaded.

Only the standard library is imported, so that these errors come at once.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.errors import LaunchError, OutputError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hf_imgcls.arguments import Arguments

RECIPE_FILE = "recipe.yaml"
DATA_FILE = "data.json"
RESULTS_FILE = "all_results.json"
_OWN_FILES = (RECIPE_FILE, DATA_FILE, "trainer_state.json")
_OWN_RESULTS = (RESULTS_FILE, "train_results.json", "eval_results.json", "test_results.json", "parity.json")


def run_recipe(main: Callable[[], None]) -> None:
    """Run a recipe; a user's error is printed without a traceback and ends the process with its exit code."""
    try:
        main()
    except UserError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def is_main_process() -> bool:
    """Whether this process writes files and prints; known from the launcher before torch is imported."""
    return int(os.environ.get("RANK", "0")) == 0


def set_up_logging(notes: list[str]) -> None:
    """Log to stderr, from the main process; the other processes only log errors.

    Args:
        notes: What was changed about the user's arguments; logged at once.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logger = logging.getLogger("hf_imgcls")
    logger.setLevel(logging.INFO if is_main_process() else logging.ERROR)
    for note in notes:
        logger.warning(note)


def check_launch(num_processes: int | None) -> int:
    """Compare the world that was launched with the one that was asked for.

    ``accelerate launch --cpu --num_processes 2`` silently starts one process; the only way to notice is to ask.

    Args:
        num_processes: ``--num_processes`` of the recipe; ``None`` takes any world.

    Returns:
        The world size.

    Raises:
        LaunchError: Another number of processes runs.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes is not None and world_size != num_processes:
        raise LaunchError(
            f"{world_size} process{'es run' if world_size > 1 else ' runs'}, --num_processes asks for {num_processes}",
            f"a launcher that starts {num_processes}",
            f"accelerate launch --config_file accelerate_config.yaml --num_processes {num_processes} recipes/...",
        )
    if is_main_process():
        print(f"World size: {world_size} process{'es' if world_size > 1 else ''}", file=sys.stderr)
    return world_size


def open_output_folder(args: Arguments) -> Path:
    """Create the run's folder, or make sure that an existing one may be written to.

    Args:
        args: ``output_dir``, ``overwrite_output_dir`` and ``do_train`` decide.

    Returns:
        The folder.

    Raises:
        OutputError: The folder is a file, cannot be written, belongs to something else, or holds a finished run.
    """
    folder = Path(args.training["output_dir"])
    if not is_main_process():
        return folder
    overwrite = args.fit.overwrite_output_dir
    if folder.is_file():
        raise OutputError(f"output_dir {folder} is a file", "a folder", "choose another --output_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"output_dir {folder} cannot be written: {error.strerror}", "a folder you may write", "choose another one"
        ) from error
    content = [path for path in folder.iterdir() if path.name != ".gitignore"]
    if not content or not args.training["do_train"]:
        return folder
    if any((folder / name).exists() for name in _OWN_FILES) or any(folder.glob("checkpoint-*")):
        if overwrite:
            _clear_run(folder)
        elif (folder / RESULTS_FILE).exists():
            raise OutputError(
                f"output_dir {folder} holds a finished run",
                "an empty folder, or an unfinished run to go on with",
                "choose another --output_dir, or pass --overwrite_output_dir to replace the run",
            )
    elif not overwrite:
        raise OutputError(
            f"output_dir {folder} exists and is no run of hf_imgcls (it has {content[0].name!r})",
            "an empty or new folder",
            "choose another --output_dir, or pass --overwrite_output_dir to write into it all the same",
        )
    return folder


def find_last_checkpoint(args: Arguments) -> str | None:
    """The checkpoint that training goes on from: the one named, or the newest one in the run's folder."""
    named = args.training.get("resume_from_checkpoint")
    if named and str(named).lower() not in ("true", "false"):
        if not Path(named).is_dir():
            raise OutputError(
                f"resume_from_checkpoint {named} is no folder", "a checkpoint-* folder", "correct the path"
            )
        return str(named)
    if str(named).lower() == "false":
        return None
    checkpoints = [
        path
        for path in Path(args.training["output_dir"]).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and (path / "trainer_state.json").exists()
    ]
    if not checkpoints:
        return None
    return str(max(checkpoints, key=lambda path: int(path.name.removeprefix("checkpoint-"))))


def check_disk_space(folder: Path, model_bytes: int, num_checkpoints: int) -> None:
    """Make sure the checkpoints will fit, before hours are spent on reaching the first one.

    Args:
        folder: The run's folder.
        model_bytes: Size of the weights.
        num_checkpoints: Checkpoints that exist at the same time at most; 0 when none are saved.

    Raises:
        OutputError: Less is free than the weights at the end and the checkpoints need.
    """
    # A checkpoint holds the weights and two moments of the same size (AdamW); one more while it is written.
    needed = model_bytes * (1 + 3 * (num_checkpoints + 1 if num_checkpoints else 0))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{free / 1e9:.1f} GB are free at {folder}",
            f"{needed / 1e9:.1f} GB for the model and {num_checkpoints} checkpoints",
            "free some space, lower --save_total_limit, or choose another --output_dir",
        )


def _clear_run(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    for name in (*_OWN_FILES, *_OWN_RESULTS):
        (folder / name).unlink(missing_ok=True)
