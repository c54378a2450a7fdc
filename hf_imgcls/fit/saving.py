"""From a trained model to the run's folder that ``pipeline("image-classification")`` loads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from hf_imgcls.arguments.recipe import save_recipe
from hf_imgcls.compat.models import keep_fast_processor
from hf_imgcls.fit.adapt import merge_adapter
from hf_imgcls.fit.quantization import is_quantized, remove_quantizers
from hf_imgcls.layout import DATA_FILE, QUANTIZERS_FILE, RECIPE_FILE

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

    from hf_imgcls.arguments.fields import Arguments
    from hf_imgcls.fit.trainer import ImageClassificationTrainer
    from hf_imgcls.records import DataRecord

logger = logging.getLogger(__name__)


def save_run(
    trainer: ImageClassificationTrainer,
    processor: BaseImageProcessor,
    record: DataRecord,
    args: Arguments,
    output_dir: Path,
) -> None:
    """Write the trained model, its processor and the run's records.

    With LoRA the adapter goes to ``adapter/`` and the top level holds the merged model; quantisers go into a file of
    their own, and out of the Trainer's model. Called on every process: a sharded model is gathered by all of them.

    Args:
        trainer: After training.
        processor: What fed the model.
        record: The dataset's record, saved as ``data.json``.
        args: Saved as ``recipe.yaml``.
        output_dir: The run's folder.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.args.should_save:  # of an earlier run, whose weights were others
        (output_dir / QUANTIZERS_FILE).unlink(missing_ok=True)
    if hasattr(model, "merge_and_unload"):
        merged = merge_adapter(model, output_dir, trainer.args.should_save)
        if trainer.args.should_save:
            merged.save_pretrained(output_dir)
        trainer.model = trainer.model_wrapped = merged
    else:
        trainer.save_model(str(output_dir))
        if is_quantized(model):  # what is measured from here on is what is served
            remove_quantizers(model)
            logger.info(
                "The quantisers are in %s: --export_formats openvino_int8 takes them, here and in hf-imgcls export",
                output_dir / QUANTIZERS_FILE,
            )
    if trainer.args.should_save:
        processor.save_pretrained(output_dir)
        keep_fast_processor(processor, output_dir)
        # A pickle: nothing in the folder that is published needs it.
        (output_dir / "training_args.bin").unlink(missing_ok=True)
        record.save(output_dir / DATA_FILE)
        save_recipe(args, output_dir / RECIPE_FILE)
        trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    trainer.accelerator.wait_for_everyone()
    if not args.publish.dry_run:  # then the folder is about to go away
        logger.info("The model is in %s", output_dir)
