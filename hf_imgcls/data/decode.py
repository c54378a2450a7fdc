"""The one place where image files become pixels, for training, evaluation and serving alike (imports no torch).

Decoding is Pillow, restricted to the formats below. `torchvision.io` is not used: its PNG decoder can take the process
down on a corrupt file. A file is read in two steps, header first, so that its size is checked before any memory is
spent on pixels, and so that training can pick its crop before decoding and then decode no more than it needs.

What becomes of images that are not plain 8-bit RGB:

============================  =========================================================================================
EXIF (or XMP) orientation     applied: pixels come out upright; an unreadable EXIF block is ignored
1-bit, grayscale              repeated into three channels
16-bit grayscale, 12-bit TIFF scaled by the type's range, value * 255 / 65535 (or 4095), never clipped
16-bit RGB(A) PNG             Pillow keeps the high byte
32-bit integer                PNG, PPM and images made in memory hold 16-bit values: / 65535; a TIFF: / (2^31 - 1)
32-bit float                  0..1 when no value exceeds 1, else 0..255; NaN and infinity are an error
palette                       looked up; with transparency composed like alpha
alpha, colour-key             composed over ``background``
CMYK, YCbCr, HSV              Pillow's conversion (JPEGs of Adobe's inverted kind included), without ICC profiles
animation, several pages      the first frame
============================  =========================================================================================
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

# Importing the plugins registers them, so that Pillow does not have to load all of its fifty to learn what exists.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageColor,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.extras import require

with contextlib.suppress(ImportError):  # Pillow < 11.3
    from PIL import AvifImagePlugin  # noqa: F401

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF") if name in Image.OPEN)
# Pillow warns of a decompression bomb above this size and refuses at twice it; here the warning is an error too.
MAX_PIXELS = 89_478_485

ImageSource = dict[str, Any] | bytes | str | Path | Image.Image

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_HOLDERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


@functools.lru_cache(maxsize=16)
def parse_background(background: str) -> tuple[int, int, int]:
    """Read a colour as Pillow writes them: a name, ``"#rrggbb"`` or ``"rgb(r, g, b)"``.

    Raises:
        ArgumentError: The text is not a colour.
    """
    try:
        return ImageColor.getcolor(background, "RGB")  # type: ignore[return-value]
    except ValueError as error:
        raise ArgumentError(
            f"alpha_background is {background!r}",
            'a colour such as "white", "black", "#7f7f7f" or "rgb(124, 116, 104)"',
            "set --alpha_background to one of these",
        ) from error


class Scratch:
    """Memory for one array at a time. Fresh memory of this size costs a page fault per 4 KiB at its first use."""

    def __init__(self) -> None:
        self._memory = np.empty(0, dtype=np.uint8)

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An uninitialised uint8 array, valid until the next call."""
        size = math.prod(shape)
        if self._memory.size < size:
            self._memory = np.empty(size, dtype=np.uint8)
        return self._memory[:size].reshape(shape)


class EncodedImage:
    """An image whose header has been read and whose pixels have not.

    Args:
        source: A row of a `datasets.Image(decode=False)` column (``{"bytes", "path"}``; a path may be remote), the
            bytes of a file, a path, or a Pillow image.
        background: Colour that shows through transparent pixels.
        max_pixels: Most pixels (width * height) an image may have; never more than Pillow's own bomb limit,
            ``PIL.Image.MAX_IMAGE_PIXELS``.

    Attributes:
        name: The image's path, or its size in bytes where it has none.
        data: The whole file; empty for a Pillow image.
        mode: Pillow's name for the kind of pixels that the file holds, for example ``"RGB"``, ``"P"`` or ``"I;16"``.

    Raises:
        DataError: The file is missing, is not one of the formats, or has more pixels than allowed.
    """

    def __init__(self, source: ImageSource, *, background: str = "white", max_pixels: int = MAX_PIXELS) -> None:
        self.background = background
        self.name, self.data, image = _locate(source)
        if image is None:
            try:
                image = Image.open(io.BytesIO(self.data), formats=FORMATS)
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise self._too_large(str(error), max_pixels) from error
            except MemoryError:
                raise
            except Exception as error:  # a plugin may raise anything on hostile bytes
                raise self._unreadable(error) from error
        self._image: Image.Image = image
        self.mode: str = image.mode
        width, height = image.size
        limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
        if width * height > limit:
            raise self._too_large(f"{width} x {height} pixels", limit)
        if width * height == 0:
            raise self._unreadable(ValueError(f"it has {width} x {height} pixels"))

    @functools.cached_property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 is upright."""
        image = self._image
        if image.format == "PNG":
            self._load(1)  # a PNG may carry its EXIF block behind the pixels
        # Pillow turns TIFF pages upright itself, size included.
        if image.format == "TIFF" or not any(holder in image.info for holder in _ORIENTATION_HOLDERS):
            return 1
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # a broken EXIF block beside good pixels is not worth an image
            return 1
        return orientation if orientation in _UPRIGHT else 1

    @property
    def size(self) -> tuple[int, int]:
        """Upright ``(width, height)`` of the whole image in pixels, known without decoding a JPEG."""
        width, height = self._image.size
        return (height, width) if self.orientation >= 5 else (width, height)

    @property
    def reducible(self) -> bool:
        """Whether decoding at 1/2, 1/4 or 1/8 of the size is cheaper than decoding (JPEG files only)."""
        return self.data != b"" and self._image.format in ("JPEG", "MPO")

    def read(self, reduce: int = 1) -> Image.Image:
        """Decode to upright RGB. Call it once: a reduced image cannot be had back at full size.

        Args:
            reduce: 1, 2, 4 or 8: a `reducible` image is decoded at 1/reduce of its size, rounded up.

        Returns:
            A Pillow image of mode RGB.

        Raises:
            DataError: The pixels cannot be decoded; the message names the file and the reason.
        """
        self._load(reduce)
        try:
            image = _convert_to_rgb(self._image, self.background)
            orientation = self.orientation
            return image.transpose(_UPRIGHT[orientation]) if orientation != 1 else image
        except (ArgumentError, MemoryError):
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def read_array(
        self, reduce: int = 1, *, decoder: str = "pillow", scratch: Scratch | None = None
    ) -> NDArray[np.uint8]:
        """Decode to an array, without a copy where Pillow lends its memory.

        Args:
            reduce: As in `read`.
            decoder: ``"pillow"`` or ``"simplejpeg"``, which takes the JPEGs only (extra ``decode``) and gives the same
                pixels as Pillow. What simplejpeg refuses goes to Pillow, so that both accept the same files.
            scratch: Memory that simplejpeg decodes into; the result is valid until its next use.

        Returns:
            uint8 ``(height, width, 3)``, upright, or ``(height, width, 4)``: red, green, blue and a fourth byte without
            meaning, Pillow's own layout. Treat it as read-only.

        Raises:
            DataError: As in `read`.
        """
        if decoder == "simplejpeg" and self.reducible and self._image.mode == "RGB" and self.orientation == 1:
            pixels = self._read_with_simplejpeg(reduce, scratch or Scratch())
            if pixels is not None:
                return pixels
        return _lend_pixels(self.read(reduce))

    def verify(self) -> None:
        """Hold a PNG file against its own checksums, which decoding passes over: wrong pixels may come of it.

        Raises:
            DataError: The file is damaged.
        """
        if self._image.format == "PNG":
            try:
                Image.open(io.BytesIO(self.data), formats=("PNG",)).verify()
            except Exception as error:
                raise self._unreadable(error) from error

    def _read_with_simplejpeg(self, reduce: int, scratch: Scratch) -> NDArray[np.uint8] | None:
        simplejpeg = require("decode")
        width, height = (-(-side // reduce) for side in self._image.size)
        # Its fast DCT and upsampling stay off: they gain a tenth and change pixels, so that results would depend on
        # what is installed.
        smallest = {"min_height": height, "min_width": width} if reduce > 1 else {}
        buffer = scratch.take((height, width, 3))
        try:
            return simplejpeg.decode_jpeg(self.data, "RGB", buffer=buffer, **smallest)
        except ValueError:
            return None

    def _load(self, reduce: int) -> None:
        try:
            if reduce > 1 and self.reducible:
                width, height = self._image.size
                self._image.draft(None, (max(1, width // reduce), max(1, height // reduce)))
            self._image.load()
        except MemoryError:
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        reason = f"{error}"
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image" if self.data else "the file is empty"
        return DataError(
            f"cannot read {self.name}: {reason or type(error).__name__}",
            f"a whole image file in one of the formats {', '.join(FORMATS)}",
            "repair or remove the file",
        )

    def _too_large(self, found: str, limit: int) -> DataError:
        return DataError(
            f"{self.name} has {found}",
            f"at most {limit:,} pixels, so that a small file cannot fill the memory",
            "make the image smaller (or raise --max_image_pixels, up to Pillow's bomb limit of "
            f"{Image.MAX_IMAGE_PIXELS or MAX_PIXELS:,})",
        )


def decode_image(
    source: ImageSource,
    *,
    background: str = "white",
    max_pixels: int = MAX_PIXELS,
    min_size: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode an image to upright 8-bit RGB; the module's table says what becomes of other kinds.

    Args:
        source: See `EncodedImage`.
        background: Colour that shows through transparent pixels.
        max_pixels: Most pixels an image may have.
        min_size: ``(width, height)`` in pixels that is enough: a JPEG at least twice, four or eight times that large is
            decoded at 1/2, 1/4 or 1/8 of its size, which is cheaper and not pixel-equal to decoding and shrinking.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        DataError: The file is missing, corrupt, truncated, too large, or no image.
        ArgumentError: ``background`` is not a colour.
    """
    encoded = EncodedImage(source, background=background, max_pixels=max_pixels)
    reduce = choose_reduction(encoded.size, min_size) if min_size and encoded.reducible else 1
    return encoded.read(reduce)


def choose_reduction(size: tuple[int, int], enough: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which ``size`` can be divided and still be ``enough`` in both directions."""
    return next(r for r in (8, 4, 2, 1) if r == 1 or (size[0] >= r * enough[0] and size[1] >= r * enough[1]))


def name_sample(error: DataError, sample_index: int) -> DataError:
    """The same error, saying which sample of its split it is about."""
    return DataError(f"{error.found} (sample_index {sample_index})", error.expected, error.fix)


def _locate(source: ImageSource) -> tuple[str, bytes, Image.Image | None]:
    """Name, file contents and, for an image in memory, the image itself."""
    path: str | Path | None = None
    data: bytes | None = None
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or "an image in memory", b"", source
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif isinstance(source, dict):
        path, data = source.get("path"), source.get("bytes")
    elif isinstance(source, (str, Path)):
        path = source
    if data is None:
        if path is None:
            raise DataError(
                f"an image that is {source!r}"[:200], "a path or the bytes of an image file", "remove the row"
            )
        # Only rows of a dataset may point to a remote file; a bare string could come from outside.
        data = _read_file(path, allow_remote=isinstance(source, dict))
    return describe_source(source), data, None


def describe_source(source: Any) -> str:
    """What errors call an image: its path, or its size where it has none."""
    if isinstance(source, (str, Path)):
        return str(source)
    path, data = (source.get("path"), source.get("bytes")) if isinstance(source, dict) else (None, source)
    return str(path) if path is not None else f"an image of {len(data or b''):,} bytes"


def _read_file(path: str | Path, *, allow_remote: bool) -> bytes:
    try:
        if allow_remote and "://" in str(path):
            import fsspec

            with fsspec.open(str(path), "rb") as file:
                return file.read()
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a ValueError: no file can have such a name
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read {path}: {reason}", "a readable image file", "check that the file is there"
        ) from error


def _convert_to_rgb(image: Image.Image, background: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        if image.mode in ("La", "RGBa"):  # alpha already multiplied in: undo it first
            image = image.convert(image.mode.replace("a", "A"))
        canvas = Image.new("RGBA", image.size, (*parse_background(background), 255))
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    if image.mode.startswith("I;16"):
        return _scale_to_rgb(np.asarray(image), 4095 if _bits_per_sample(image) == 12 else 65535)
    if image.mode == "I":
        return _scale_to_rgb(np.asarray(image), 2**31 - 1 if image.format == "TIFF" else 65535)
    if image.mode == "F":
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinite values")
        return _scale_to_rgb(values, 1.0 if values.max() <= 1.0 else 255.0)
    return image.convert("RGB")


def _scale_to_rgb(values: NDArray[Any], highest: float) -> Image.Image:
    levels = np.rint(values.astype(np.float64) * (255.0 / highest)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _bits_per_sample(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    return tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] if tags is not None else 16


class _Borrowed:
    """Makes NumPy see memory of somebody else, whom it keeps alive."""

    def __init__(self, owner: object, address: int, shape: tuple[int, ...]) -> None:
        self.owner = owner
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": "|u1", "version": 3}


def _lend_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an RGB image as an array: Pillow's own memory where possible.

    Pillow stores RGB as four bytes per pixel and lends that memory through Arrow's C interface (Pillow >= 11.2, images
    in one memory block, which 4 million pixels fit). The common ``np.asarray(image)`` packs, joins and copies instead:
    0.4 of 1.5 ms for a photograph of 500 x 375 pixels.
    """
    if hasattr(image, "__arrow_c_array__"):
        try:
            import pyarrow

            pixels = pyarrow.array(image)
        except (ImportError, ValueError):
            return np.asarray(image)
        buffer = pixels.buffers()[-1]
        return np.asarray(_Borrowed(pixels, buffer.address, (image.height, image.width, 4)))
    return np.asarray(image)
