"""A Gradio demo of a published model: written to a folder, where it runs as it is, and pushed as a Space."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_imgcls.publish.files import EXAMPLES_FOLDER, list_names, read_files
from hf_imgcls.publish.hub import connect, read_destination, use_token
from hf_imgcls.publish.remote_card import check_unedited
from hf_imgcls.publish.upload import Destination, fetch_remote_state, find_owner, finish, upload
from hf_imgcls.retries import Patience

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments

# The Gradio release that goes with each line of huggingface_hub, and both with pillow below 13.
_GRADIO = {"0": "6.17.3", "2": "6.31.0"}
_REQUIREMENTS = ("transformers", "torch", "torchvision", "timm")


def push_space(folder: Path | None, args: Arguments, *, patience: Patience | None = None) -> None:
    """Write the demo of a model and push it.

    Args:
        folder: The model's run, whose examples are offered; None for a model that is on the Hub only.
        args: ``space``, ``hub_model_id``, ``hub_revision``, ``public``, ``publish_images`` and ``dry_run``.
        patience: When to give up.

    Raises:
        PushError: The Hub did not take it.
    """
    patience = patience or Patience()
    use_token(args)
    model = read_destination(folder or Path("model"), args)
    space = Destination(
        str(args.publish.space), "space", public=model.public, message=args.publish.commit_message or "Upload demo"
    )
    if not args.publish.dry_run:
        model, space = (find_owner(place, connect(), patience) for place in (model, space))
    place = folder / "space" if folder is not None else Path("outputs") / f"{space.repo_id.rpartition('/')[2]}_space"
    write_space(place, model, folder if args.publish.publish_images else None)
    files = read_files(place, list_names(place))
    if args.publish.dry_run:
        print(f"\nWould push to the Space {space.repo_id}, from {place}:")
        for file in files:
            print(f"  {file.size:>14,}  {file.name}")
        return
    remote = fetch_remote_state(space, connect(), patience)
    if not args.publish.overwrite_card:
        check_unedited(space, remote, connect(), patience)
    commit = upload(
        files, space, is_ours=_select_ours, patience=patience, api=connect(), space_sdk="gradio", remote=remote
    )
    finish(space, commit, connect(), patience)
    print(f"\n  demo                  {commit.url}, from {place}")
    if fetch_remote_state(model, connect(), patience).private:
        page = f"{connect().endpoint}/spaces/{space.repo_id}/settings"
        print(
            f"  {model.repo_id} is private: for the Space to load it, add a secret HF_TOKEN that may read it, at {page}"
        )


def write_space(place: Path, model: Destination, run: Path | None) -> None:
    """Write the demo's files.

    Args:
        place: The folder, made anew.
        model: The model's repository and branch.
        run: The run's folder with ``examples/``; None for no examples.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    examples = sorted((run / EXAMPLES_FOLDER).glob("*.*")) if run is not None else []
    if examples:
        (place / EXAMPLES_FOLDER).mkdir()
    for path in examples:
        shutil.copyfile(path, place / EXAMPLES_FOLDER / path.name)
    name = model.repo_id.rpartition("/")[2]
    about: dict[str, Any] = {
        "model": model.repo_id,
        "revision": model.branch,
        "title": name,
        "description": f"What [{model.repo_id}](https://huggingface.co/{model.repo_id}) takes an image for.",
        "examples": [f"{EXAMPLES_FOLDER}/{path.name}" for path in examples],
    }
    (place / "demo.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).parent / "space_app.py", place / "app.py")
    (place / "requirements.txt").write_text("".join(f"{line}\n" for line in _list_requirements()), encoding="utf-8")
    header = {
        "title": name,
        "sdk": "gradio",
        "sdk_version": _GRADIO["0" if version("huggingface_hub").startswith("0.") else "2"],
        "app_file": "app.py",
        "models": [model.repo_id],
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    (place / "README.md").write_text(
        f"---\n{text}---\n\nA demo of `{model.repo_id}`. To run it here: `pip install gradio -r requirements.txt`, "
        "then `python app.py`.\n",
        encoding="utf-8",
    )


def _list_requirements() -> list[str]:
    """What the model was made with; releases without the build's own suffix, which package registries do not have."""
    from importlib.util import find_spec

    there = [name for name in _REQUIREMENTS if find_spec(name) is not None]
    return [f"{name}=={version(name).partition('+')[0]}" for name in there] + ["pillow<13"]


def _select_ours(names: Any) -> set[str]:
    return {name for name in names if name.startswith(f"{EXAMPLES_FOLDER}/")}
