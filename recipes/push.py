#!/usr/bin/env python
"""``hf-imgcls push`` as a script: python recipes/push.py outputs/digits_vit --hub_model_id me/digits --dry_run."""

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.push import main

if __name__ == "__main__":
    run_recipe(main)
