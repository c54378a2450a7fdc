"""Tiny models that were really trained, so that their answers differ from image to image.

Run as a script, this module scores a saved model on the first test digits, for tests with several processes.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hf_imgcls.arguments.fields import DataArguments, FitArguments
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.transforms import attach_transforms
from hf_imgcls.fit.model import build_model

CONFIGS = {
    "vit": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    },
    # With the default layer scale of 1e-6 the blocks would do nothing.
    "convnext": {"depths": [1, 1], "hidden_sizes": [16, 32], "num_stages": 2, "layer_scale_init_value": 1.0},
}  # fmt: skip
_FOLDERS = tempfile.TemporaryDirectory()  # removed when the process ends


def digits_arguments(max_test_samples: int = 61) -> DataArguments:
    """The built-in sample with a test split that no even number of processes divides."""
    return DataArguments(dataset_name="digits", image_size=32, max_test_samples=max_test_samples)


@functools.cache
def load_digits(max_test_samples: int = 61) -> ImageDataset:
    return load_image_dataset(digits_arguments(max_test_samples))


@functools.cache
def find_trained_model(model_type: str, steps: int = 200) -> Path:
    """A saved tiny model with its processor, trained on the validation digits for a few steps; not to be changed."""
    folder = Path(_FOLDERS.name, model_type)
    torch.manual_seed(0)
    dataset, data = load_digits(), digits_arguments()
    model, processor = build_model(
        FitArguments(model_type=model_type, model_config=CONFIGS[model_type]), data, dataset.labels
    )
    plan = attach_transforms(dataset, processor, data, seed=0)
    batch = plan.eval_device_transform(plan.validation[: len(plan.validation)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.arange(step * 64, (step + 1) * 64) % len(batch["labels"])
        logits = model(pixel_values=batch["pixel_values"][rows]).logits
        torch.nn.functional.cross_entropy(logits, batch["labels"][rows]).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    from accelerate import PartialState

    from hf_imgcls.measure.score import score_folder

    state = PartialState(cpu=True)
    content: dict[str, Any] = {"num_processes": state.num_processes}
    for size in (61, 1):
        score = score_folder(sys.argv[1], load_digits(size), digits_arguments(), batch_size=8)
        content[str(size)] = {
            "metrics": score.metrics,
            "sample_index": score.examples.sample_index.tolist(),
            "prediction": score.examples.prediction.tolist(),
        }
    Path(sys.argv[2], f"rank{state.process_index}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
