#!/usr/bin/env python
"""``hf-imgcls measure`` as a script for launchers.

python recipes/measure.py --model_name_or_path outputs/digits_vit
torchrun --nproc_per_node 2 recipes/measure.py --model_name_or_path outputs/digits_vit --test_dir my_photos
"""

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.measure import main

if __name__ == "__main__":
    run_recipe(main)
