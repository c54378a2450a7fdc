#!/usr/bin/env python
"""``hf-imgcls repeat`` as a script: python recipes/repeat.py --config digits_vit_tiny --shots_per_class 10."""

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.repeat import main

if __name__ == "__main__":
    run_recipe(main)
