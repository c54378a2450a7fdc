#!/usr/bin/env python
"""``hf-imgcls pretrain`` as a script for launchers.

accelerate launch recipes/pretrain.py --method simclr --unlabelled_dir my_images --model_type convnext
"""

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.pretrain import main

if __name__ == "__main__":
    run_recipe(main)
