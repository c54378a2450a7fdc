"""A dataset ready for transforms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_imgcls.arguments.first_word import BUILT_IN_SAMPLE
from hf_imgcls.records import MULTI_LABEL, DataRecord

if TYPE_CHECKING:
    from hf_imgcls.data.manifest import Manifest
    from hf_imgcls.data.streaming import StreamingSplit


@dataclass
class ImageDataset:
    """A dataset ready for transforms.

    Attributes:
        splits: Some of ``train``, ``validation``, ``test``. Every split has the columns ``image``
            (``datasets.Image(decode=False)``: a dict of ``bytes`` and ``path``), ``label`` (``ClassLabel`` of
            ``labels``; with several labels per image a list of it, ascending and perhaps empty) and ``sample_index``
            (int64: the row in the source's split before cutting, shuffling and truncation), then the source's other
            columns.
        labels: Class names; the position is the id.
        record: Where all of this came from.
        arguments: What `hf_imgcls.load_data` was told: the arguments that load the same; empty otherwise.
        manifest: The images by their content; None before `hf_imgcls.data.scan.check_images`, and where it has not
            looked at every image.
    """

    splits: dict[str, Dataset | StreamingSplit]
    labels: list[str]
    record: DataRecord
    manifest: Manifest | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def problem_type(self) -> str:
        """What a label is, as a model's config spells it."""
        return self.record.problem_type

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may show several of the classes, or none."""
        return self.record.problem_type == MULTI_LABEL

    @property
    def are_files(self) -> bool:
        """Whether images are files; those of the built-in sample are arrays, which become PNG when they are loaded."""
        return self.record.source != BUILT_IN_SAMPLE
