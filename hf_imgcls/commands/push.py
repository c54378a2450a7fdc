"""Push a finished run to the Hub: card, model, report and records in one commit, verified before and after it.

    hf-imgcls push outputs/digits_vit --hub_model_id me/digits --dry_run            # shows all, sends nothing
    hf-imgcls push outputs/digits_vit --hub_model_id me/digits --license apache-2.0 # private
    hf-imgcls push outputs/digits_vit --hub_model_id me/digits --public --hub_tag v1.0
    hf-imgcls push outputs/digits_vit --hub_model_id team/digits --create_pr
    hf-imgcls push outputs/digits_vit --hub_model_id me/digits --space me/digits-demo

Log in before with `hf auth login`, or set HF_TOKEN. What the run's recipe says about the push holds here too.
`python recipes/push.py` takes the same command line.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.layout import RECIPE_FILE
from hf_imgcls.process import set_up_logging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hf_imgcls.arguments.fields import Arguments

FLAGS = (
    "hub_model_id", "hub_revision", "hub_private_repo", "hub_token", "hub_tag", "public", "create_pr",
    "commit_message", "license", "license_name", "license_link", "card_notes", "overwrite_card",
    "publish_images", "publish_predictions", "publish_hashes", "verify",
)  # fmt: skip


def main() -> None:
    """Run the command line."""
    # Whatever is wrong with the arguments is said before anything is imported.
    args = read_arguments(sys.argv[1:])
    set_up_logging(args)

    from hf_imgcls.publish.hub import push_run
    from hf_imgcls.publish.space import push_space

    folder = Path(args.publish.run) if args.publish.run else None
    if folder is not None:
        push_run(folder, args)
    if args.publish.space is not None:
        push_space(folder, args)


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line, completed by the recipe of the run that it begins with.

    Raises:
        ArgumentError: Something about it is wrong.
    """
    recipe = Path(argv[0]) / RECIPE_FILE if argv and not argv[0].startswith("-") else None
    if recipe is not None and recipe.is_file() and "--config" not in argv:
        argv = [argv[0], "--config", str(recipe), *argv[1:]]
    return parse_arguments(argv, description=__doc__, groups=("push",), also=FLAGS, positional="run")
