"""Cutting splits of examples with several labels so that every class keeps its share in every part.

The rarest class is dealt out first, because its few examples leave the least choice, and what its examples bring of
other classes is counted against what those classes still need.

Source: Sechidis, Tsoumakas and Vlahavas (2011), "On the Stratification of Multi-Label Data",
https://doi.org/10.1007/978-3-642-23808-6_10, section 3. There examples are dealt one by one; here all that are left of
a class at once, which takes one step for each class instead of one for each example. The parts' sizes are exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.sparse import csr_array


def cut_iteratively(labels: csr_array, counts: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Cut held-out parts; result as of `hf_imgcls.data.splits.cut_stratified`.

    A class of which examples are left when its turn comes keeps at least one in ``train``.

    Args:
        labels: (N, K) bools, the labels of each example.
        counts: Part name -> number of examples to cut; together at most N.
        seed: Any integer.
    """
    random = np.random.RandomState(seed % 2**32)
    num_examples = labels.shape[0]
    names = ["train", *counts]
    room = np.array([num_examples - sum(counts.values()), *counts.values()])
    # What is still wanted of each class in each part: (parts, K).
    wanted = np.outer(room / max(num_examples, 1), _sum_labels(labels))
    left = _sum_labels(labels)
    members = labels.tocsc()
    rank = random.permutation(num_examples)
    part_of = np.full(num_examples, -1)
    is_trained = np.zeros(labels.shape[1], dtype=bool)
    while left.any():
        label = int(np.where(left > 0, left, num_examples + 1).argmin())
        rows = members.indices[members.indptr[label] : members.indptr[label + 1]]
        rows = rows[part_of[rows] < 0]
        rows = rows[np.argsort(rank[rows])]
        quota = _deal(len(rows), wanted[:, label], room, random)
        if not is_trained[label] and not quota[0] and room[0]:
            quota += np.eye(len(names), dtype=np.int64)[0] - np.eye(len(names), dtype=np.int64)[quota.argmax()]
        part_of[rows] = np.repeat(np.arange(len(names)), quota)
        room = room - quota
        for part in range(len(names)):
            wanted[part] -= _sum_labels(labels[rows[part_of[rows] == part]])
        left = left - _sum_labels(labels[rows])
        is_trained |= _sum_labels(labels[rows[part_of[rows] == 0]]) > 0
    rows = np.flatnonzero(part_of < 0)  # examples without a label fill what is left
    part_of[rows[np.argsort(rank[rows])]] = np.repeat(np.arange(len(names)), room)
    return {name: np.flatnonzero(part_of == part) for part, name in enumerate(names)}


def _sum_labels(labels: csr_array) -> np.ndarray:
    """Examples of each class: int64 (K,)."""
    return np.bincount(labels.indices, minlength=labels.shape[1])


def _deal(count: int, wanted: np.ndarray, room: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Share examples out over parts: in proportion to what is wanted, at most ``room`` each; ties fall by chance."""
    wanted = np.maximum(wanted, 0.0)
    exact = count * wanted / wanted.sum() if wanted.sum() > 0 else count * room / room.sum()
    quota = np.minimum(np.floor(exact + 1e-9).astype(np.int64), room)
    while quota.sum() < count:
        order = np.lexsort((random.permutation(len(room)), quota - exact))
        order = order[quota[order] < room[order]][: count - int(quota.sum())]
        quota[order] += 1
    return quota
