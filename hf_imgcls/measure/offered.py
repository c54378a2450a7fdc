"""What a consumer of a model is given in a parity check: the split's own files, and where needed converted pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass

from PIL import Image

from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.classifier.image_source import ImageSource, Picture
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.records import ParityRecord


@dataclass(frozen=True)
class Offer:
    """One image of a split, as a consumer has it.

    Attributes:
        original: The file's path or bytes, or the picture where there is no file; None where ``pipeline()`` cannot
            read it, but we can.
        converted: The pixels that were scored, where ``pipeline()`` reads others for a known reason; else None.
        reason: That reason: ``"16-bit"`` or another kind of depth, ``"transparent"``; else ``""``.
    """

    original: Picture | None
    converted: Image.Image | None = None
    reason: str = ""

    @property
    def is_file(self) -> bool:
        """Whether there is a file."""
        return not isinstance(self.original, Image.Image)


def offer(source: ImageSource, reading: Reading) -> Offer:
    """Prepare an image of a split for a consumer.

    Only a chosen background and deep pictures explain that ``pipeline()`` reads other pixels than were scored. Whatever
    else makes a difference is left for the consumer to find.

    Args:
        source: See `hf_imgcls.classifier.decode.EncodedImage`.
        reading: How it was read when it was scored.

    Raises:
        DataError: It cannot be read.
    """
    encoded = EncodedImage(source, reading)
    original = _find_original(source, encoded)
    if not (reason := encoded.reads_otherwise):
        return Offer(original)
    pixels, plain = encoded.read(), encoded.read_as_pipeline()
    if plain is not None and plain.tobytes() == pixels.tobytes():
        return Offer(original)
    return Offer(original if plain is not None else None, pixels, reason)


def _find_original(source: ImageSource, encoded: EncodedImage) -> Picture:
    """Return a path where there is a local one: it is what most consumers pass."""
    if isinstance(source, Image.Image):
        return source
    path = source.get("path") if isinstance(source, dict) and source.get("bytes") is None else source
    if isinstance(path, (str, os.PathLike)) and os.path.isfile(path):
        return os.path.abspath(path)
    return encoded.data


def describe_agreement(record: ParityRecord, share: str) -> str:
    """Say how many images get the answer that was scored, and as what the consumer was given them.

    Args:
        record: What was compared.
        share: ``top1_agreement`` as a percentage. It is said of the split's own files alone: images that were given in
            another form say nothing about the share of files that a consumer answers right, and are counted.

    Returns:
        ``"100 % of 270 files"``, ``"270 of 270 arrays, given as PNG"`` or ``"24 of 24 converted pictures"``.
    """
    n, num_converted = record.num_examples, sum(record.read_otherwise.values())
    num_arrays = 0 if record.num_files is None else n - record.num_files
    if record.num_files == n and not num_converted:
        return f"{share} of {n:,} files"
    text = f"{record.num_agreeing:,} of {n:,}"
    if num_arrays == n and not num_converted:
        return f"{text} arrays, given as PNG"
    if num_converted == n and not num_arrays:
        return f"{text} converted pictures"
    text += " images"
    if num_converted:
        text += f", {num_converted:,} of them converted"
    if num_arrays:
        text += f", {num_arrays:,} of them arrays, given as PNG"
    return text


def describe_plain(record: ParityRecord) -> str:
    """Say what a plain ``pipeline()`` scores on the files beside what was scored, or "" where it reads them alike."""
    if not record.read_otherwise or record.scored_value is None or record.plain_value is None:
        return ""
    n = record.num_examples
    kinds = " and ".join(f"{count:,} of {n:,} are {kind}" for kind, count in record.read_otherwise.items())
    name = str(record.metric).replace("_", " ")
    return f"{name} {record.plain_value:.4f} on the files as they are, {record.scored_value:.4f} as scored ({kinds})"
