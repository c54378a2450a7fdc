"""A run's folder onto the Hub: plan, check, upload, verify.

What goes up is an allow-list (`hf_imgcls.publish.files`), in one commit or not at all (`hf_imgcls.publish.client`).
Tokens come from the login or the environment; nothing here stores or prints one.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.digests import RESTORE, describe_changes, find_changes
from hf_imgcls.errors import ParityError, PushError
from hf_imgcls.publish.card import check_card, write_card
from hf_imgcls.publish.files import PublishedFile, check_model, list_names, read_files, select_published
from hf_imgcls.publish.hub_rules import is_repo_id
from hf_imgcls.publish.upload import Destination, Remote, find_owner, look_at, upload
from hf_imgcls.records import ParityRecord, PushRecord, RunRecord
from hf_imgcls.retries import Patience
from hf_imgcls.run import PUSH_FILE, RUN_FILE

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_imgcls.arguments import Arguments
    from hf_imgcls.publish.client import Commit
    from hf_imgcls.publish.verify import RunData

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a push is going to do.

    Attributes:
        folder: The run's folder.
        files: What goes up, by name.
        left_out: Files and folders at its top that do not.
        source: The run's data; None when it is not needed.
    """

    folder: Path
    files: list[PublishedFile]
    left_out: list[str]
    source: RunData | None


def push_run(
    folder: Path, args: Arguments, source: RunData | None = None, *, patience: Patience | None = None
) -> PushRecord | None:
    """Publish a finished run.

    Args:
        folder: The run's folder; gets the card, the widget's examples and ``push.json``.
        args: The groups ``publish`` and ``push``.
        source: The run's data, if it is loaded already.
        patience: When to give up.

    Returns:
        What was done; None after ``--dry_run``.

    Raises:
        PushError: Something must not be published, or the Hub did not take it.
        ParityError: The files are on the Hub, but a consumer gets other answers than were scored.
    """
    patience = patience or Patience()
    use_token(args)
    destination = read_destination(folder, args)
    if not args.publish.dry_run:
        destination = find_owner(destination, connect(), patience)
    plan = plan_push(folder, args, destination, source)
    if args.publish.dry_run:
        _print_plan(plan, destination, _look_if_possible(destination, patience))
        return None
    commit = upload(plan.files, destination, is_ours=select_published, patience=patience, api=connect())
    record = PushRecord(destination.repo_id, commit.oid, commit.url, [file.name for file in plan.files])
    record.tag, record.not_verified = destination.tag, "not asked for"
    record.save(plan.folder / PUSH_FILE)
    _print_push(destination, commit, plan)
    if args.publish.verify:
        _verify(record, plan)
    return record


def connect() -> HfApi:
    """The client of the Hub that ``HF_ENDPOINT`` names."""
    from huggingface_hub import HfApi

    return HfApi()


def use_token(args: Arguments) -> None:
    """Put a token that was given as a flag where the client looks for it, and nothing else does."""
    given = [token for token in (args.hub_token, args.data.token) if isinstance(token, str)]
    if given and os.environ.get("HF_TOKEN") != given[0]:
        os.environ["HF_TOKEN"] = given[0]
        logger.warning("A token on the command line is seen by everybody on this machine: better set HF_TOKEN.")


def check_access(args: Arguments, *, patience: Patience | None = None) -> None:
    """Before a long run: whether the model could be pushed when it ends.

    Raises:
        PushError: There is no token, it may not write, or the Hub is not reached.
    """
    use_token(args)
    destination = read_destination(Path(args.training["output_dir"]), args)
    destination = find_owner(destination, connect(), patience or Patience())
    logger.info("When it ends, the run is pushed to %s.", destination.repo_id)


def read_destination(folder: Path, args: Arguments) -> Destination:
    """Where a run goes by its arguments; without ``--hub_model_id``, to a repository of the folder's name."""
    publish, training = args.publish, args.training
    repo_id = training.get("hub_model_id") or folder.resolve().name
    if not is_repo_id(repo_id):
        raise PushError(f"{repo_id!r} cannot be a repository's name", "--hub_model_id owner/name", "name one")
    return Destination(
        repo_id=repo_id,
        branch=training.get("hub_revision") or "main",
        public=publish.public or training.get("hub_private_repo") is False,
        tag=publish.hub_tag,
        create_pr=publish.create_pr,
        message=publish.commit_message or "Upload image classifier",
    )


def plan_push(folder: Path, args: Arguments, destination: Destination, source: RunData | None = None) -> Plan:
    """Write the card, choose the files, and check everything that can be checked without sending anything.

    Raises:
        PushError: Something must not be published as it is.
    """
    folder = folder.resolve()
    _check_finished(folder)
    check_model(folder, list_names(folder))
    publish = args.publish
    if source is None and (publish.verify or publish.publish_images):
        from hf_imgcls.publish.verify import recall_data

        source = recall_data(folder)
    choose = partial(select_published, images=publish.publish_images, predictions=publish.publish_predictions)
    widget = _show_examples(folder, source, destination.repo_id) if publish.publish_images else None
    notes = Path(publish.card_notes) if publish.card_notes else None
    stated = {"license": publish.license, "license_name": publish.license_name, "license_link": publish.license_link}
    license = {name: value for name, value in stated.items() if value is not None}
    there = list_names(folder)
    write_card(
        folder,
        notes=notes,
        license=license,
        hub_model_id=destination.repo_id,
        widget=widget,
        left_out=select_published(there) - choose(there),
    )
    check_card(folder)
    names = choose(list_names(folder))
    tops = {name.split("/")[0] for name in names}
    left_out = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name not in tops)
    return Plan(folder, read_files(folder, names), left_out, source)


def _show_examples(folder: Path, source: RunData | None, repo_id: str) -> list[dict[str, Any]] | None:
    from hf_imgcls.publish.examples import describe_widget, write_examples

    examples = write_examples(folder, source) if source is not None else []
    if not examples:
        logger.info("No examples for the widget: %s", (source and source.reason) or "the data has no validation split")
    return describe_widget(examples, repo_id) or None


def _check_finished(folder: Path) -> None:
    if not folder.is_dir():
        raise PushError(f"there is no folder {folder}", "a run's folder", "correct the name")
    if (folder / RUN_FILE).is_file() and (state := RunRecord.load(folder / RUN_FILE).state) != "finished":
        raise PushError(
            f"the run in {folder} is {state}", "a finished run", "run the command that began it again: it goes on"
        )
    if changes := describe_changes(find_changes(folder)):
        raise PushError(f"{folder} was changed. {changes}", "the files that the run has left", RESTORE)


def _look_if_possible(destination: Destination, patience: Patience) -> Remote | str:
    """What is on the Hub, for a dry run; or why it was not asked."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if get_token() is None:
        return "there is no token; log in with `hf auth login`, or set HF_TOKEN"
    return look_at(find_owner(destination, connect(), patience), connect(), patience)


def _print_plan(plan: Plan, destination: Destination, remote: Remote | str) -> None:
    print(f"\nWould push to {destination.repo_id}, branch {destination.branch}:")
    for file in plan.files:
        print(f"  {file.size:>14,}  {file.name}" + ("  (without local paths)" if _is_cleaned(file) else ""))
    print(f"  {sum(file.size for file in plan.files):>14,}  bytes in {len(plan.files)} files, in one commit")
    if isinstance(remote, str):
        print(f"The Hub was not asked: {remote}.")
    else:
        gone = sorted(select_published(remote.names) - {file.name for file in plan.files})
        there = f"is there and {'private' if remote.private else 'public'}" if remote.exists else "is not there yet"
        print(f"{destination.repo_id} {there}." + "".join(f"\n  deleted there: {name}" for name in gone))
    if plan.left_out:
        print(f"Stays here: {', '.join(plan.left_out)}")


def _is_cleaned(file: PublishedFile) -> bool:
    return isinstance(file.source, bytes)


def _print_push(destination: Destination, commit: Commit, plan: Plan) -> None:
    size = sum(file.size for file in plan.files)
    what = f"{len(plan.files)} files, {size / 1e6:.1f} MB" if commit.is_new else "nothing had changed"
    print(f"\n  pushed                {commit.url} ({what})")
    if destination.tag:
        print(f"  tag                   {destination.tag}")


def _verify(record: PushRecord, plan: Plan) -> None:
    from hf_imgcls.measure.saved_model import print_parity
    from hf_imgcls.publish.verify import RunData, verify_revision

    try:
        result = verify_revision(record.repo_id, record.revision, plan.folder, plan.source or RunData(None))
    except ParityError as error:
        record.not_verified = error.found
        record.save(plan.folder / PUSH_FILE)
        raise
    if isinstance(result, ParityRecord):
        record.parity, record.not_verified = result, ""
        print_parity(result)
    else:
        record.not_verified = result
        print(f"  served = scored       not verified: {result}")
    record.save(plan.folder / PUSH_FILE)
