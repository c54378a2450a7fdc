"""A run's folder onto the Hub: plan, stage, verify, upload, verify again.

What goes up is an allow-list (`hf_imgcls.publish.files`), in one commit or not at all (`hf_imgcls.publish.client`).
Tokens come from the login or the environment; nothing here stores or prints one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_imgcls.arguments.hub_names import is_repo_id
from hf_imgcls.digests import RESTORE, describe_changes, find_changes
from hf_imgcls.errors import ParityError, PushError
from hf_imgcls.layout import CARD_FILE, HASHES_FILE, MANIFEST_FILE, PUSH_FILE, RUN_FILE
from hf_imgcls.publish.card import NO_NOTES, Notes, check_card, choose_notes, write_card
from hf_imgcls.publish.files import PublishedFile, check_model, list_names, read_files, select_images, select_published
from hf_imgcls.publish.remote_card import digest_card, keep_remote_notes
from hf_imgcls.publish.staging import Staged, compare_with_hub, stage
from hf_imgcls.publish.upload import Destination, Remote, fetch_remote_state, find_owner, finish, upload
from hf_imgcls.records import ParityRecord, PushRecord, RunRecord
from hf_imgcls.retries import Patience

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_imgcls.arguments.fields import Arguments
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
        PushError: Something must not be published, the Hub did not take it, or text of others there would be lost.
        ParityError: A consumer of the files gets other answers than were scored; the message says whether anything
            was pushed.
    """
    patience = patience or Patience()
    use_token(args)
    destination = read_destination(folder, args)
    check_folder(folder)
    reason = _find_silence() if args.publish.dry_run else ""
    remote = None
    if not reason:
        destination = find_owner(destination, connect(), patience)
        remote = fetch_remote_state(destination, connect(), patience)
    plan = plan_push(folder, args, destination, source, _choose_notes(folder, args, destination, remote, patience))
    if args.publish.dry_run:
        _print_plan(plan, destination, remote or reason)
    with stage(plan.folder, plan.files) as staged:
        parity = _verify_staged(staged, plan, args)
        if args.publish.dry_run:
            return None
        commit = upload(
            staged.files, destination, is_ours=select_published, patience=patience, api=connect(), remote=remote
        )
        record = PushRecord(
            destination.repo_id, commit.oid, commit.url, [file.name for file in plan.files],
            branch=destination.branch, not_verified=parity if isinstance(parity, str) else "the push has not ended",
            card_sha256=digest_card((staged.folder / CARD_FILE).read_bytes()),
        )  # fmt: skip
        _print_push(commit, plan)
        record.save(plan.folder / PUSH_FILE)
        if args.publish.verify:
            _verify_commit(record, staged, plan, parity, patience)
    finish(destination, commit, connect(), patience)
    if destination.tag:
        print(f"  tag                   {destination.tag}")
        record.tag = destination.tag
        record.save(plan.folder / PUSH_FILE)
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
        PushError: There is no token, it may not write, the Hub is not reached, or text of others there would be lost.
    """
    use_token(args)
    folder, patience = Path(args.training["output_dir"]), patience or Patience()
    destination = find_owner(read_destination(folder, args), connect(), patience)
    _choose_notes(folder, args, destination, fetch_remote_state(destination, connect(), patience), patience)
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


def check_folder(folder: Path) -> None:
    """Make sure that a folder can be pushed, before anybody is asked and anything is written.

    Raises:
        PushError: It is no finished run, or its model is incomplete.
    """
    folder = folder.resolve()
    _check_finished(folder)
    check_model(folder, list_names(folder))


def plan_push(
    folder: Path, args: Arguments, destination: Destination, source: RunData | None = None, notes: Notes = NO_NOTES
) -> Plan:
    """Write the card, choose the files, and check everything that can be checked without sending anything.

    Args:
        folder: The run's folder, see `check_folder`.
        args: The groups ``publish`` and ``push``.
        destination: Where it goes.
        source: The run's data, if it is loaded already.
        notes: What the author adds to the card.

    Raises:
        PushError: Something must not be published as it is.
    """
    folder = folder.resolve()
    publish = args.publish
    if source is None and (publish.verify or publish.publish_images):
        from hf_imgcls.publish.verify import recall_data

        source = recall_data(folder)
    choose = partial(
        select_published,
        images=publish.publish_images,
        predictions=publish.publish_predictions,
        hashes=publish.publish_hashes,
    )
    widget = _show_examples(folder, source, destination.repo_id) if publish.publish_images else None
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
    files = read_files(folder, names, images=publish.publish_images)
    if publish.publish_hashes:
        files = [*(file for file in files if file.name != HASHES_FILE), _make_hashes(folder)]
    return Plan(folder, files, _list_left_out(folder, names), source)


def _list_left_out(folder: Path, names: Collection[str]) -> list[str]:
    """What of a folder is not published: files and folders at its top, and the images of the dataset."""
    tops = {name.split("/")[0] for name in names}
    paths = (path for path in folder.iterdir() if path.name not in tops and not path.name.startswith("."))
    pictures = len(select_images(list_names(folder)) - set(names))
    kept = [f"{pictures} images of the dataset in the report (see --publish_images)"] if pictures else []
    return sorted(path.name + ("/" if path.is_dir() else "") for path in paths) + kept


def _make_hashes(folder: Path) -> PublishedFile:
    """Make the list of hashes that a later run can hold its test images against."""
    from hf_imgcls.data.manifest import Manifest

    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise PushError(
            f"publish_hashes, and {folder} has no {MANIFEST_FILE}",
            "a run that has looked at every image (--scan_images true, no streaming)",
            "leave out --publish_hashes",
        )
    return PublishedFile(HASHES_FILE, Manifest.load(path).encode_hashes())


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


def _find_silence() -> str:
    """Why a dry run does not ask the Hub what is there; nothing if it does."""
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if get_token() is None:
        return "there is no token; log in with `hf auth login`, or set HF_TOKEN"
    return ""


def _print_plan(plan: Plan, destination: Destination, remote: Remote | str) -> None:
    print(f"\nWould push to {destination.repo_id}, branch {destination.branch}:")
    for file in plan.files:
        print(f"  {file.size:>14,}  {file.name}" + (f"  ({file.remark})" if file.remark else ""))
    print(f"  {sum(file.size for file in plan.files):>14,}  bytes in {len(plan.files)} files, in one commit")
    if isinstance(remote, str):
        print(f"The Hub was not asked: {remote}.")
    else:
        gone = sorted(select_published(remote.names) - {file.name for file in plan.files})
        there = f"is there and {'private' if remote.private else 'public'}" if remote.exists else "is not there yet"
        print(f"{destination.repo_id} {there}." + "".join(f"\n  deleted there: {name}" for name in gone))
    if plan.left_out:
        print(f"Stays here: {', '.join(plan.left_out)}")


def _print_push(commit: Commit, plan: Plan) -> None:
    size = sum(file.size for file in plan.files)
    what = f"{len(plan.files)} files, {size / 1e6:.1f} MB" if commit.is_new else "nothing had changed"
    print(f"\n  pushed                {commit.url} ({what})")


def _choose_notes(
    folder: Path, args: Arguments, destination: Destination, remote: Remote | None, patience: Patience
) -> Notes:
    """The author's notes for the card: those here, or on the Hub."""
    notes = choose_notes(folder, args.publish.card_notes)
    if remote is None or args.publish.overwrite_card:
        return notes
    last = _read_last_push(folder, destination)
    return keep_remote_notes(notes, destination, remote, last.card_sha256 if last else "", connect(), patience)


def _read_last_push(folder: Path, destination: Destination) -> PushRecord | None:
    """The record of this folder's last push to the same branch."""
    if not (folder / PUSH_FILE).is_file():
        return None
    record = PushRecord.load(folder / PUSH_FILE)
    return record if (record.repo_id, record.branch) == (destination.repo_id, destination.branch) else None


def _verify_staged(staged: Staged, plan: Plan, args: Arguments) -> ParityRecord | str:
    """Let a stranger answer from the files before anybody gets them."""
    if not args.publish.verify:
        return "not asked for"
    from hf_imgcls.publish.verify import RunData, verify_staged

    try:
        result = verify_staged(staged.folder, plan.folder, plan.source or RunData(None))
    except ParityError as error:
        raise ParityError(f"nothing was pushed: {error.found}", error.expected, error.fix) from error
    _print_parity(result)
    return result


def _print_parity(result: ParityRecord | str) -> None:
    from hf_imgcls.measure.judge import print_parity

    if isinstance(result, ParityRecord):
        print_parity(result)
    else:
        print(f"  served = scored       not verified: {result}")


def _verify_commit(
    record: PushRecord, staged: Staged, plan: Plan, parity: ParityRecord | str, patience: Patience
) -> None:
    """Compare what the Hub holds with what was verified, and let a stranger load it from there."""
    from hf_imgcls.publish.verify import RunData, verify_revision

    try:
        compare_with_hub(staged, record.repo_id, record.revision, connect(), patience)
        served = verify_revision(record.repo_id, record.revision, plan.folder, plan.source or RunData(None))
    except (ParityError, PushError) as error:
        record.not_verified = error.found
        record.save(plan.folder / PUSH_FILE)
        raise type(error)(f"{record.url} is pushed, but {error.found}", error.expected, error.fix) from error
    print(f"  files on the Hub      {len(staged.files)}, byte for byte the staged ones")
    _print_parity(served)
    if isinstance(parity, ParityRecord):
        record.parity, record.not_verified = parity, ""
    record.save(plan.folder / PUSH_FILE)
