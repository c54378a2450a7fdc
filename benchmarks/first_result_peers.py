"""One row of a peer of ``first_result.py``: train as it does by default, and save what it answers on the test images.

    python benchmarks/first_result_peers.py script 3 --data SET --model FOLDER --image_size 64 --seed 0 --output FILE

What is taken from each, written anew with its own library:

- ``script``: transformers' run_image_classification.py as its README starts it for folders of one's own: AdamW at 5e-5,
  falling linearly, batches of 8, 3 epochs; RandomResizedCrop of 8 to 100 % and flips; Resize and CenterCrop to score.
- ``timm``: train.py's values: cosine by epoch, label smoothing 0.1, and its transforms (RandomResizedCrop of 8 to
  100 %, flips, colour jitter 0.4, interpolation drawn). SGD with Nesterov momentum 0.9, weight decay 2e-5, and a rate
  of 0.1 for 256 images, so 0.0125 for batches of 32; networks without batch norms: AdamW at 1e-4, weight decay 0.01
  (its documentation's example with --pretrained). Batches of 32 (not 128) and no warm-up (not 5 epochs), since
  otherwise there would be a handful of steps; the last epoch is kept.
- ``fastai``: its quick start: ``ImageDataLoaders.from_folder(item_tfms=Resize)``, batches of 64, the head of
  ``vision_learner``, and ``fine_tune`` as it is.

Networks start from the same weights, and read pixels with the same mean and standard deviation. The peers train on the
training images alone; what they ask of validation images has no say in what is kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder


def read_normalisation(model: Path) -> dict[str, list[float]]:
    """Mean and standard deviation that the network was pretrained with."""
    config = json.loads((model / "config.json").read_text())
    if "pretrained_cfg" in config:
        return {name: config["pretrained_cfg"][name] for name in ("mean", "std")}
    processor = json.loads((model / "preprocessor_config.json").read_text())
    return {name: processor[f"image_{name}"] for name in ("mean", "std")}


def build_network(model: Path, num_labels: int) -> Any:
    return transformers.AutoModelForImageClassification.from_pretrained(
        model, num_labels=num_labels, ignore_mismatched_sizes=True
    )


def score(network: nn.Module, data: Path, transform: Any) -> np.ndarray:
    """Log-probabilities of the test images, (N, K) float64, in the order of ``ImageFolder``."""
    network.eval()
    with torch.inference_mode():
        logits = [network(pixels).logits for pixels, _ in DataLoader(ImageFolder(data / "test", transform), 64)]
    return torch.cat(logits).double().log_softmax(-1).numpy()


def train_script(options: argparse.Namespace) -> np.ndarray:
    normalise = [transforms.ToTensor(), transforms.Normalize(**read_normalisation(options.model))]
    size = options.image_size
    crops = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    train = ImageFolder(options.data / "train", transforms.Compose([*crops, *normalise]))
    arguments = transformers.TrainingArguments(
        output_dir=str(options.output.with_suffix("")), num_train_epochs=options.epochs, remove_unused_columns=False,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=options.seed,
    )  # fmt: skip
    trainer = transformers.Trainer(
        build_network(options.model, len(train.classes)), arguments, train_dataset=train,
        data_collator=lambda rows: {
            "pixel_values": torch.stack([row[0] for row in rows]), "labels": torch.tensor([row[1] for row in rows])
        },
    )  # fmt: skip
    trainer.train()
    plain = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *normalise])
    return score(trainer.model, options.data, plain)


def train_timm(options: argparse.Namespace) -> np.ndarray:
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    batch_size, shape = 32, (3, options.image_size, options.image_size)
    normalise = {name: tuple(values) for name, values in read_normalisation(options.model).items()}
    transform = create_transform(
        shape, is_training=True, scale=(0.08, 1), hflip=0.5, color_jitter=0.4, interpolation="random", **normalise
    )
    train = ImageFolder(options.data / "train", transform)
    network = build_network(options.model, len(train.classes))
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        optimizer = create_optimizer_v2(network, "sgd", lr=0.1 * batch_size / 256, weight_decay=2e-5, momentum=0.9)
    else:
        optimizer = create_optimizer_v2(network, "adamw", lr=1e-4, weight_decay=0.01)
    loader = DataLoader(train, batch_size, shuffle=True, drop_last=True)
    schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=options.epochs, updates_per_epoch=len(loader))
    loss_of = LabelSmoothingCrossEntropy(0.1)
    for epoch in range(options.epochs):
        network.train()
        for pixels, labels in loader:
            loss = loss_of(network(pixels).logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step(epoch + 1)
        print(f"epoch {epoch + 1}: {loss.item():.3f}", flush=True)
    return score(network, options.data, create_transform(shape, interpolation="bicubic", **normalise))


def train_fastai(options: argparse.Namespace) -> np.ndarray:
    from fastai.vision.all import ImageDataLoaders, Learner, Normalize, Resize, accuracy, add_head, default_split
    from fastai.vision.learner import TimmBody

    data = ImageDataLoaders.from_folder(
        options.data, train="train", valid="validation", item_tfms=Resize(options.image_size), num_workers=0,
        batch_tfms=Normalize.from_stats(*read_normalisation(options.model).values(), cuda=False), device="cpu",
    )  # fmt: skip
    network = build_network(options.model, len(data.vocab))
    if hasattr(network, "timm_model"):
        body, width = TimmBody(network.timm_model), network.timm_model.num_features
    else:
        width = network.classifier.in_features
        network.classifier = nn.Identity()
        body = _Features(network)
    learner = Learner(
        data, add_head(body, width, len(data.vocab), pool=hasattr(network, "timm_model")), splitter=default_split,
        metrics=accuracy, path=options.output.parent,
    )  # fmt: skip
    with learner.no_bar():
        learner.fine_tune(options.epochs)
        files = [file for file, _ in ImageFolder(options.data / "test").samples]
        scores, _ = learner.get_preds(dl=data.test_dl(files))
    return np.log(np.maximum(scores.double().numpy(), np.finfo(np.float32).tiny))


class _Features(nn.Module):
    """What a classifier without its last layer gives."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels).logits


PEERS = {"script": train_script, "timm": train_timm, "fastai": train_fastai}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("epochs", type=int)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--image_size", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    transformers.set_seed(options.seed)
    scores = PEERS[options.peer](options)
    test = ImageFolder(options.data / "test")
    files = ["/".join(Path(file).parts[-2:]) for file, _ in test.samples]
    np.savez(options.output, files=files, classes=test.classes, log_probabilities=scores)


if __name__ == "__main__":
    main()
