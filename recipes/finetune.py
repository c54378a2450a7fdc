#!/usr/bin/env python
"""``hf-imgcls finetune`` as a script for launchers.

accelerate launch recipes/finetune.py --config digits_vit_tiny
accelerate launch --config_file accelerate_config.yaml recipes/finetune.py --config cifar10_vit_base --learning_rate 1e-4
"""  # noqa: E501

from hf_imgcls.commands.command import run_recipe
from hf_imgcls.commands.finetune import main

if __name__ == "__main__":
    run_recipe(main)
