"""The manifest of a run: which images, known by what is in them, were in which split.

It is a parquet file in the run's folder and stays there. A later run, or a later measurement, learns from it which
of its images the model has seen, whatever the files are called by then.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hf_imgcls.data.cache import write_atomically
from hf_imgcls.errors import DataError
from hf_imgcls.layout import MANIFEST_FILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_imgcls.data.label_sets import LabelIds
    from hf_imgcls.data.survey import SplitSurvey

_HASHES = {"content_hash": pa.binary(16), "file_hash": pa.binary(16)}
# Other models that have seen images: the one that a run starts from, its teacher, and one that is measured.
_MODELS = ("base", "teacher", "model")
# Held-out split -> what must not hold its images. What chose a model's checkpoint is as good as seen by it.
_SEEN_BY = {
    "test": ("train", "validation", *(f"{whose}_{role}" for whose in _MODELS for role in ("train", "validation"))),
    "validation": ("train", *(f"{whose}_train" for whose in _MODELS)),
}


@dataclass
class Manifest:
    """The images of a run.

    Attributes:
        images: One row per image: ``sample_index`` (int64), ``split`` (string), ``content_hash`` and ``file_hash``
            (16 bytes each, see `hf_imgcls.data.survey.ImageFacts`), ``label`` (the class name; a list of names where
            an image may have several) and ``group`` (string, from ``--group_column``). Images that the base model was
            trained on and selected by are the splits ``base_train`` and ``base_validation``, with hashes alone; those
            of a teacher ``teacher_train`` and ``teacher_validation``.
    """

    images: pa.Table

    @classmethod
    def join(cls, parts: Sequence[pa.Table]) -> Manifest:
        """Make a manifest of the rows of several splits, see `list_images`."""
        return cls(pa.concat_tables(parts).combine_chunks())

    @property
    def splits(self) -> list[str]:
        """The splits that have rows, in their order."""
        return self.images["split"].unique().to_pylist()

    def take_split(self, name: str) -> pa.Table:
        """Return the rows of a split, in its order."""
        return self.images.filter(pc.equal(self.images["split"], name))

    def find_shared(self, split: str, other: str) -> NDArray[np.bool_]:
        """Return, for each image of a split, whether another split holds the same picture or the same file.

        Args:
            split: N rows.
            other: The split to look in.

        Returns:
            bool ``(N,)``.
        """
        rows, others = self.take_split(split), self.take_split(other)
        found = [pc.is_in(rows[name], value_set=others[name].combine_chunks().drop_null()) for name in _HASHES]
        return np.asarray(pc.or_(*found).to_numpy(), dtype=bool)

    def list_sharing(self, split: str) -> list[str]:
        """Return the splits that a held-out split should share no image with, as far as they are there."""
        return [name for name in _SEEN_BY.get(split, ()) if name in self.splits]

    def find_seen(self, split: str) -> NDArray[np.int64]:
        """Return the sample indices of the images of a held-out split that training or selection has seen."""
        rows = self.take_split(split)
        seen = np.zeros(rows.num_rows, dtype=bool)
        for other in self.list_sharing(split):
            seen |= self.find_shared(split, other)
        return np.asarray(rows["sample_index"].to_numpy()[seen], dtype=np.int64)

    def add_origin(self, origin: Manifest, prefix: str) -> Manifest:
        """Return a manifest that also names what another model has seen, and what that one's base had.

        Args:
            origin: Of the run that made that model.
            prefix: ``"base"``, ``"teacher"`` or ``"model"``: splits are then called ``base_train``, for example.
        """
        seen = origin.list_seen().images
        named = pc.binary_join_element_wise(prefix, seen["split"], "_")
        seen = seen.set_column(seen.schema.get_field_index("split"), "split", named)
        joined = pa.concat_tables([self.images, seen], promote_options="default")
        return Manifest(joined.select(self.images.column_names))

    def list_seen(self) -> Manifest:
        """Return what a model that is made of these images has seen: as ``train`` and ``validation``, hashes alone.

        They are in their own order, which tells nothing about the files.
        """
        parts = []
        for role in ("train", "validation"):
            names = pa.array([role, f"base_{role}", f"teacher_{role}"])
            seen = self.images.filter(pc.is_in(self.images["split"], names))
            columns = {name: seen[name] for name in _HASHES} | {"split": pa.array([role] * len(seen), pa.string())}
            unique = pa.table(columns).group_by([*columns]).aggregate([])
            parts.append(unique.sort_by([(name, "ascending") for name in _HASHES]))
        return Manifest(pa.concat_tables(parts).combine_chunks())

    def encode_hashes(self) -> bytes:
        """Return ``training_hashes.parquet``: the content hashes of what a model has seen, and nothing else."""
        seen = self.list_seen().images
        place = seen.schema.get_field_index("file_hash")
        seen = seen.set_column(place, "file_hash", pa.nulls(len(seen), _HASHES["file_hash"]))
        file = io.BytesIO()
        pq.write_table(seen, file, compression="zstd", write_statistics=False, write_page_checksum=True)
        return file.getvalue()

    @cached_property
    def root_hash(self) -> str:
        """BLAKE2b over all columns, 32 hexadecimal digits: equal where the rows are, whoever wrote the file."""
        digest = hashlib.blake2b(digest_size=16)
        for name in self.images.column_names:
            values = self.images[name].combine_chunks()
            digest.update(f"{name} {len(values)} {values.null_count} ".encode())
            if pa.types.is_list(values.type):
                digest.update(values.value_lengths().fill_null(-1).to_numpy().astype("<i8").tobytes())
                values = values.flatten()
            if name == "sample_index":
                digest.update(values.fill_null(-1).to_numpy().astype("<i8").tobytes())
            elif name in _HASHES:
                digest.update(b"".join(values.fill_null(bytes(16)).to_pylist()))
            else:  # few names, in the order of their first appearance
                encoded = values.dictionary_encode()
                digest.update(json.dumps(encoded.dictionary.to_pylist()).encode())
                digest.update(encoded.indices.fill_null(-1).to_numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``data_manifest.parquet`` into a run's folder, in one step."""
        with write_atomically(Path(folder) / MANIFEST_FILE) as file:
            pq.write_table(
                self.images, file, compression="zstd", use_dictionary=["split", "label", "group"],
                write_statistics=False, write_page_checksum=True,
            )  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest.

        Raises:
            DataError: The file is damaged, or no manifest.
        """
        try:
            images = pq.read_table(path, page_checksum_verification=True).combine_chunks()
            is_whole = all(images.schema.field(name).type == kind for name, kind in _HASHES.items())
            is_whole = is_whole and images.schema.field("split").type == pa.string()
        except (OSError, KeyError, pa.ArrowException) as error:
            raise _unreadable(path, str(error)) from error
        if not is_whole:
            raise _unreadable(path, "its columns are others")
        return cls(images)


def _unreadable(path: str | os.PathLike[str], reason: str) -> DataError:
    return DataError(
        f"{path} cannot be read: {reason}",
        "the manifest that the run wrote",
        "copy it from the run again, or remove it: then no image is compared with those that trained that model",
    )


def list_images(
    role: str,
    survey: SplitSurvey,
    ids: LabelIds,
    labels: list[str],
    sample_index: NDArray[np.int64],
    groups: pa.Array | None = None,
) -> pa.Table:
    """Join what a scan found in the images of a split with what is known of them: rows of a `Manifest`.

    Args:
        role: The split.
        survey: What decoding the whole split found; N of its images can be read.
        ids: Labels of those N, by id.
        labels: Class names by id.
        sample_index: int64 ``(N,)``.
        groups: N values of ``--group_column``.
    """
    found = survey.images.filter(survey.images["reason"].is_null())
    nothing = pa.nulls(len(found), pa.string())
    rows = {
        "sample_index": pa.array(sample_index),
        "split": pa.array([role], pa.string()).take(pa.array(np.zeros(len(found), dtype=np.int8))),
        **{name: found[name] for name in _HASHES},
        "label": _name_labels(ids, labels),
        "group": nothing if groups is None else groups.cast(pa.string()),
    }
    return pa.table(rows)


def _name_labels(ids: LabelIds, labels: list[str]) -> pa.Array:
    names = pa.array(labels, pa.string())
    if isinstance(ids, np.ndarray):
        return names.take(pa.array(ids))
    flat = names.take(pa.array(ids.indices, pa.int64()))
    return pa.ListArray.from_arrays(pa.array(ids.indptr, pa.int32()), flat)
