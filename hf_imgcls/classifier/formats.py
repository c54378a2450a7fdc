"""Which file formats are read, and what files of other formats are called in errors (imports no torch)."""

from __future__ import annotations

import contextlib
import ctypes

# Importing the plugins registers them, so that Pillow does not have to load all of its fifty to learn what exists.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

with contextlib.suppress(ImportError):  # Pillow < 11.3
    from PIL import AvifImagePlugin  # noqa: F401

FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF") if name in Image.OPEN)

_TO_PICTURE = "convert it to JPEG or PNG"
# (offset, the bytes there, what the file is, what to do with it)
_SIGNATURES = (
    (4, b"ftypheic", "a HEIC file", _TO_PICTURE),
    (4, b"ftypheix", "a HEIC file", _TO_PICTURE),
    (4, b"ftypmif1", "a HEIF file", _TO_PICTURE),
    (4, b"ftypmsf1", "a HEIF file", _TO_PICTURE),
    (4, b"ftyphevc", "a HEIC file", _TO_PICTURE),
    (4, b"ftypavif", "an AVIF file, which this Pillow cannot read", _TO_PICTURE),
    (4, b"ftyp", "a video (MP4)", "extract its frames as JPEG or PNG"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 file", _TO_PICTURE),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file", _TO_PICTURE),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL file", _TO_PICTURE),
    (0, b"\xff\x0a", "a JPEG XL file", _TO_PICTURE),
    (0, b"8BPS", "a Photoshop (PSD) file", _TO_PICTURE),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file", _TO_PICTURE),
    (128, b"DICM", "a DICOM file", "convert it to 16-bit PNG or TIFF"),
    (0, b"%PDF", "a PDF file", _TO_PICTURE),
    (0, b"\x00\x00\x01\x00", "an icon (ICO) file", _TO_PICTURE),
    (0, b"\x93NUMPY", "a NumPy array", "save it as PNG or TIFF"),
    (0, b"\x89HDF\r\n", "an HDF5 file", "save its images as PNG or TIFF"),
    (0, b"PK\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull"),
)


def name_other_format(data: bytes) -> tuple[str, str] | None:
    """Return what a file in none of `FORMATS` is and what to do with it, or None if its first bytes do not tell.

    Args:
        data: The file, or its first 256 bytes.
    """
    for offset, signature, name, fix in _SIGNATURES:
        if data[offset : offset + len(signature)] == signature:
            return name, fix
    text = data[:256].lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML file", _TO_PICTURE
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML), saved in place of the image", "download the image again"
    return None


def _silence_libtiff() -> None:
    """Keep libtiff from writing to stderr, in the middle of progress bars: what matters of it is in Pillow's errors.

    Pillow offers no function for that. Where its own copy of libtiff cannot be found, nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetWarningHandler", "TIFFSetErrorHandler"):
            getattr(library, name)(None)


_silence_libtiff()
