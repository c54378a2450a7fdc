"""Fine-tune an image classifier and leave a folder that pipeline("image-classification") loads.

    hf-imgcls finetune --config digits_vit_tiny
    hf-imgcls finetune photos/ --model_name_or_path facebook/convnext-tiny-224
    hf-imgcls finetune --config cifar10_vit_base --learning_rate 1e-4 --num_processes 2

`accelerate launch recipes/finetune.py` takes the same command line, and every one of transformers'
run_image_classification.py works unchanged.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hf_imgcls.arguments.parse import parse_arguments
from hf_imgcls.commands.start import prepare

if TYPE_CHECKING:
    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.data.dataset import ImageDataset
    from hf_imgcls.fit.hooks import Hooks


def main() -> None:
    """Run the command line."""
    args = parse_arguments(description=__doc__, also=("dry_run",), positional="data")
    sys.exit(finetune(args))


def finetune(args: Arguments, hooks: Hooks | None = None, dataset: ImageDataset | None = None) -> int:
    """Do what the arguments ask for: train, judge, export and push, or one of the shorter things.

    Args:
        args: Of the command line.
        hooks: Code of the user's, which ``args`` name.
        dataset: What ``args`` name, if it is loaded already, with every image looked at.

    Returns:
        The exit code: 3 if a goal was missed, else 0.

    Raises:
        UserError: Whatever stands in the way; what can be known before torch is imported is told before.
    """
    start = prepare(args)
    from hf_imgcls.commands.finetuning import Finetuning

    run = Finetuning(start, hooks)
    run.load_data(dataset)
    if not run.training_args.do_train:
        return run.judge()
    run.build_model()
    run.build_trainer()
    if args.fit.find_lr:
        return run.find_learning_rate()
    if args.fit.tune:
        return run.search()
    run.train()
    if args.publish.dry_run:
        return run.estimate_cost()
    exit_code = run.judge()
    run.export(exit_code)
    run.push()
    return exit_code
