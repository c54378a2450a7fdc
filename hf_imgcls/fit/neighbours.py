"""What features are worth without any training: the answers of the nearest neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.classifier.features import Features

_NEIGHBOURS, _TEMPERATURE = 20, 0.07
_MOST_ASKED = 1000  # validation images whose neighbours are looked for, at the cost of N products each


def ask_neighbours(train: Features, validation: Features, num_classes: int, device: torch.device) -> NDArray[np.bool_]:
    """Whether the training images most like a validation image have its class, without any training.

    The vote of each neighbour is weighted by its cosine similarity.

    Args:
        train: Are asked.
        validation: Are asked about; of many, a thousand that lie evenly.
        num_classes: K.
        device: Where similarities are computed.

    Returns:
        bool ``(n,)``.

    Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination"
        (arXiv:1805.01978), section 3.4; k and temperature as in Caron et al. 2021, "DINO" (arXiv:2104.14294).
    """
    rows = np.arange(0, len(validation), -(-len(validation) // _MOST_ASKED))
    asked = torch.nn.functional.normalize(torch.from_numpy(validation.values[rows].astype(np.float64)).to(device))
    number = min(_NEIGHBOURS, len(train))
    similarity = torch.full((len(rows), 0), 0.0, dtype=torch.float64, device=device)
    labels = torch.zeros(len(rows), 0, dtype=torch.int64, device=device)
    for values, own in train.chunks(device):  # the nearest of what was seen so far
        all_similar = torch.cat([similarity, asked @ torch.nn.functional.normalize(values).T], dim=1)
        all_labels = torch.cat([labels, own.expand(len(rows), -1)], dim=1)
        similarity, places = all_similar.topk(min(number, all_similar.shape[1]), dim=1)
        labels = all_labels.gather(1, places)
    votes = torch.zeros(len(rows), num_classes, dtype=torch.float64, device=device)
    votes.scatter_add_(1, labels, (similarity / _TEMPERATURE).exp())
    return np.asarray(votes.argmax(1).cpu().numpy() == validation.labels[rows])
