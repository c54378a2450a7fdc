"""The start of a run: what is settled before torch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.measure.report.goals import parse_goals
from hf_imgcls.offline import go_offline_without_network
from hf_imgcls.peers import get_peers
from hf_imgcls.process import check_launch, is_main_process, set_up_logging
from hf_imgcls.run_folder import check_run, open_output_folder, temporary_run_folder

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments


@dataclass
class Start:
    """What is settled before torch is imported.

    Attributes:
        asked: What the user asked for.
        args: What runs: ``asked``, or for a dry run, a range test or a search a shorter version of it.
        folder: Where it may write.
        pushes: Whether this process pushes what comes out.
    """

    asked: Arguments
    args: Arguments
    folder: Path
    pushes: bool


def prepare(args: Arguments) -> Start:
    """Check arguments, processes and the output folder, and settle what runs.

    Raises:
        UserError: Something about them is wrong.
        SystemExit: The folder holds this very run, finished.
    """
    parse_goals(args.measure.goals or [])
    check_launch(args.fit.num_processes)
    asked, folder = args, open_output_folder(args)
    set_up_logging(args)
    for name in (args.fit.model_name_or_path, args.fit.teacher_model):
        check_run(name)
    go_offline_without_network(args.fit.model_name_or_path, args.fit.teacher_model, args.data.dataset_name)
    get_peers().watch()  # from here on processes wait for each other
    if args.publish.dry_run:
        from hf_imgcls.fit.rehearsal import rehearse

        # The same run, of a few steps and into a folder that will be gone
        args = rehearse(args, folder := temporary_run_folder(folder))
    elif args.fit.find_lr:
        from hf_imgcls.fit.lr_range import prepare_range_test

        args = prepare_range_test(args, folder := temporary_run_folder(folder))
    elif args.fit.tune:
        from hf_imgcls.fit.tune import prepare_search

        args = prepare_search(args, folder := temporary_run_folder(folder))
    pushes = bool(args.training.get("push_to_hub")) and args.training["do_train"] and is_main_process()
    if pushes:  # whether it can be pushed is known before hours are spent on it
        from hf_imgcls.publish.hub import check_access

        check_access(args)
    return Start(asked, args, folder, pushes)
