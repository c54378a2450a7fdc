"""Checkpoints onto a branch of the model's repository while training goes on, by ``--hub_strategy``.

The same allow-list holds as for a finished run: the model, and what the training has logged. The states of optimizer
and random generators are pickles and stay on this machine, so a run goes on from its own folder and not from the Hub.
What goes wrong with a push never stops the training; it is told when that ends.
"""

from __future__ import annotations

import itertools
import logging
import queue
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.publish.files import list_names, read_files, select_checkpoint
from hf_imgcls.publish.hub import connect, read_destination
from hf_imgcls.publish.staging import link_or_copy
from hf_imgcls.publish.upload import Destination, find_owner, upload
from hf_imgcls.retries import Patience
from hf_imgcls.tokens import hide_secrets

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments

CHECKPOINT_BRANCH = "checkpoints"
_SNAPSHOT_PREFIX = ".push-"
_LAST_FOLDER = "last-checkpoint"

logger = logging.getLogger(__name__)


def start_pushing(args: Arguments) -> CheckpointPusher | None:
    """What pushes a run's checkpoints, if any are to be pushed before its end."""
    strategy = str(args.training.get("hub_strategy") or "every_save")
    if not args.training.get("push_to_hub") or strategy == "end":
        return None
    folder = Path(args.training["output_dir"])
    destination = read_destination(folder, args)
    return CheckpointPusher(
        folder,
        Destination(destination.repo_id, branch=CHECKPOINT_BRANCH, public=destination.public),
        strategy,
        waits_for_all=bool(args.training.get("hub_always_push")),
    )


class CheckpointPusher:
    """Pushes checkpoints one after another, in a thread.

    Args:
        folder: The run's folder.
        destination: The repository and the branch.
        strategy: ``every_save`` puts the newest model at the top of the branch; ``checkpoint`` also into
            ``last-checkpoint/``, ``all_checkpoints`` also into ``checkpoint-<step>/``, with what was logged.
        waits_for_all: Whether a checkpoint waits for the one before it; otherwise it is passed over while that one is
            on its way.
        patience: When to give up on one.
    """

    def __init__(
        self,
        folder: Path,
        destination: Destination,
        strategy: str,
        *,
        waits_for_all: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self.folder, self.destination, self.strategy = folder, destination, strategy
        self.waits_for_all = waits_for_all
        self.patience = patience or Patience()
        self.pushed: list[str] = []
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._waiting: queue.Queue[tuple[str, Path] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="push checkpoints", daemon=True)
        for leftover in folder.glob(f"{_SNAPSHOT_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def __call__(self, checkpoint: Path) -> None:
        """Take a checkpoint to be pushed; returns at once."""
        if self._waiting.unfinished_tasks and not self.waits_for_all:
            logger.info("%s is not pushed: the one before it is still on its way.", checkpoint.name)
            return
        if not self._thread.is_alive():
            self._thread.start()
        snapshot = self.folder / f"{_SNAPSHOT_PREFIX}{next(self._numbers)}"
        try:
            for name in select_checkpoint(list_names(checkpoint)):
                link_or_copy(checkpoint / name, snapshot / name)
        except OSError as error:  # a full disk
            shutil.rmtree(snapshot, ignore_errors=True)
            self.problems.append(f"{checkpoint.name}: {error}")
            return
        self._waiting.put((checkpoint.name, snapshot))

    def finish(self) -> None:
        """Wait for what is on its way, and tell what did not get there."""
        if self._thread.is_alive():
            if self._waiting.unfinished_tasks:
                logger.info("Waiting for the push of a checkpoint.")
            self._waiting.put(None)
            self._thread.join()
        for problem in self.problems:
            logger.warning("A checkpoint was not pushed: %s", problem)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            name, snapshot = item
            try:
                self._push(name, snapshot)
                self.pushed.append(name)
            except Exception as error:  # whatever it is: the training goes on
                self.problems.append(f"{name}: {hide_secrets(str(error))}")
            finally:
                shutil.rmtree(snapshot, ignore_errors=True)
                self._waiting.task_done()

    def _push(self, name: str, snapshot: Path) -> None:
        api = connect()
        if "/" not in self.destination.repo_id:
            self.destination = find_owner(self.destination, api, self.patience)
        names = list_names(snapshot)
        files = read_files(snapshot, names - {"trainer_state.json"})
        if self.strategy in ("checkpoint", "all_checkpoints"):
            place = _LAST_FOLDER if self.strategy == "checkpoint" else name
            files += read_files(snapshot, names, prefix=f"{place}/")
        destination = replace(self.destination, message=f"Training in progress, {name}")
        upload(files, destination, patience=self.patience, api=api)
