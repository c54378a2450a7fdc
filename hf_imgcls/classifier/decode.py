"""The one place where image files become pixels, for training, evaluation and serving alike (imports no torch).

Decoding is Pillow, restricted to the formats below. `torchvision.io` is not used: its PNG decoder can take the process
down on a corrupt file. A file is read in two steps, header first, so that its size is checked before any memory is
spent on pixels, and so that training can pick its crop before decoding and then decode no more than it needs.

What becomes of images that are not plain 8-bit RGB; deep pictures and a chosen background apart, it is what the stock
``pipeline("image-classification")`` makes of the file (transformers' ``load_image``):

============================  =========================================================================================
EXIF (or XMP) orientation     applied: pixels come out upright; an unreadable EXIF block is ignored
1-bit, grayscale              repeated into three channels
deep: 16-bit grayscale,       scaled by the range of the type, or by `Reading.intensity_range`, see
32-bit, float                 `hf_imgcls.classifier.intensity`; NaN and infinity are an error
16-bit RGB(A) PNG             Pillow keeps the high byte
palette                       looked up
alpha, colour-key             dropped, or composed over `Reading.alpha_background`
CMYK, YCbCr, HSV              Pillow's conversion (JPEGs of Adobe's inverted kind included), without ICC profiles
animation, several pages      the first frame
============================  =========================================================================================
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from hf_imgcls.classifier.formats import FORMATS, name_other_format
from hf_imgcls.classifier.image_source import ImageSource, locate_image
from hf_imgcls.classifier.intensity import Depth, find_depth, is_deep, name_depth, read_values, scale_values
from hf_imgcls.classifier.reading import DEFAULT_READING, MAX_PIXELS, Reading, parse_background
from hf_imgcls.errors import ArgumentError, DataError
from hf_imgcls.extras import require

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
        reading: How to read it, and how large it may be.

    Attributes:
        name: The image's path, or its size in bytes where it has none.
        data: The whole file; empty for a Pillow image.
        mode: Pillow's name for the kind of pixels that the file holds, for example ``"RGB"``, ``"P"`` or ``"I;16"``.

    Raises:
        DataError: The file is missing, is not one of the formats, or has more bytes or pixels than allowed.
    """

    def __init__(self, source: ImageSource, reading: Reading = DEFAULT_READING) -> None:
        self.reading = reading
        self.name, self.data, image = locate_image(source, reading.max_bytes)
        if image is None:
            try:
                image = Image.open(io.BytesIO(self.data), formats=FORMATS)
            except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
                raise self._too_large(str(error), reading.max_pixels) from error
            except MemoryError:
                raise
            except Exception as error:  # a plugin may raise anything on hostile bytes
                raise self._unreadable(error) from error
        self._image: Image.Image = image
        self.mode: str = image.mode
        width, height = image.size
        limit = min(reading.max_pixels, Image.MAX_IMAGE_PIXELS or reading.max_pixels)
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
            return self._turn(_convert_to_rgb(self._image, self.reading))
        except (ArgumentError, MemoryError):
            raise
        except Exception as error:
            raise self._unreadable(error) from error

    def read_array(self, reduce: int = 1, *, scratch: Scratch | None = None) -> NDArray[np.uint8]:
        """Decode to an array, without a copy where Pillow lends its memory.

        Args:
            reduce: As in `read`.
            scratch: Memory that simplejpeg decodes into, where it is `Reading.decoder`; the result is valid until its
                next use. It takes JPEGs only, and what it refuses goes to Pillow: both accept the same files.

        Returns:
            uint8 ``(height, width, 3)``, upright, or ``(height, width, 4)``: red, green, blue and a fourth byte without
            meaning, Pillow's own layout. Treat it as read-only.

        Raises:
            DataError: As in `read`.
        """
        if (
            self.reading.decoder == "simplejpeg"
            and self.reducible
            and self._image.mode == "RGB"
            and self.orientation == 1
        ):
            pixels = self._read_with_simplejpeg(reduce, scratch or Scratch())
            if pixels is not None:
                return pixels
        return _lend_pixels(self.read(reduce))

    def read_as_pipeline(self) -> Image.Image | None:
        """Decode as the stock ``pipeline()`` does (transformers' ``load_image``); None where that fails."""
        try:
            image = Image.open(io.BytesIO(self.data), formats=FORMATS) if self.data else self._image
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ImageOps.exif_transpose(image).convert("RGB")
        except MemoryError:
            raise
        except Exception:  # Pillow converts most modes, not all
            return None

    @property
    def reads_otherwise(self) -> str:
        """Why ``pipeline()`` may read other pixels: ``"16-bit"`` or another depth, ``"transparent"``, or ``""``.

        Transparency counts where a background was chosen. The file's header tells.
        """
        if is_deep(self._image):
            return name_depth(self._image)
        return "transparent" if not self.reading.drops_alpha and self._image.has_transparency_data else ""

    @property
    def has_alpha(self) -> bool:
        """Whether some pixels may be transparent."""
        return bool(self._image.has_transparency_data)

    def read_transparent(self) -> Image.Image | None:
        """Return a picture some of whose pixels are transparent as upright RGBA, else None. Call `read` first."""
        if not self.has_alpha or is_deep(self._image):
            return None
        rgba = self._turn(self._image.convert("RGBA"))
        return rgba if rgba.getchannel("A").getextrema()[0] != 255 else None

    def read_depth(self) -> tuple[Depth, NDArray[Any]] | None:
        """Return kind, range and values ``(height, width)`` of a deep picture, else None. Call `read` first."""
        if not is_deep(self._image):
            return None
        values = read_values(self._image)
        return find_depth(self._image, values), values

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

    def _turn(self, image: Image.Image) -> Image.Image:
        return image.transpose(_UPRIGHT[self.orientation]) if self.orientation != 1 else image

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
        reason, fix = f"{error}" or type(error).__name__, "repair or remove the file"
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image" if self.data else "the file is empty"
            if (other := name_other_format(self.data)) is not None:
                reason, fix = "; ".join(other), other[1]  # tables of bad images show the reason alone
        return DataError(
            f"cannot read {self.name}: {reason}", f"a whole image file in one of the formats {', '.join(FORMATS)}", fix
        )

    def _too_large(self, found: str, limit: int) -> DataError:
        return DataError(
            f"{self.name} has {found}",
            f"at most {limit:,} pixels, so that a small file cannot fill the memory",
            "make the image smaller (or raise --max_image_pixels, up to Pillow's bomb limit of "
            f"{Image.MAX_IMAGE_PIXELS or MAX_PIXELS:,})",
        )


def decode_image(
    source: ImageSource, reading: Reading = DEFAULT_READING, *, min_size: tuple[int, int] | None = None
) -> Image.Image:
    """Decode an image to upright 8-bit RGB; the module's table says what becomes of other kinds.

    Args:
        source: See `EncodedImage`.
        reading: How to read it.
        min_size: ``(width, height)`` in pixels that is enough: a JPEG at least twice, four or eight times that large is
            decoded at 1/2, 1/4 or 1/8 of its size, which is cheaper and not pixel-equal to decoding and shrinking.

    Returns:
        A Pillow image of mode RGB.

    Raises:
        DataError: The file is missing, corrupt, truncated, too large, or not an image.
        ArgumentError: The background is not a colour.
    """
    encoded = EncodedImage(source, reading)
    reduce = choose_reduction(encoded.size, min_size) if min_size and encoded.reducible else 1
    return encoded.read(reduce)


def choose_reduction(size: tuple[int, int], enough: tuple[int, int]) -> int:
    """The largest of 8, 4, 2 and 1 by which ``size`` can be divided and still be ``enough`` in both directions."""
    return next(r for r in (8, 4, 2, 1) if r == 1 or (size[0] >= r * enough[0] and size[1] >= r * enough[1]))


def name_sample(error: DataError, sample_index: int) -> DataError:
    """The same error, saying which sample of its split it is about."""
    return DataError(f"{error.found} (sample_index {sample_index})", error.expected, error.fix)


def _convert_to_rgb(image: Image.Image, reading: Reading) -> Image.Image:
    if is_deep(image):
        values = read_values(image)
        low, high = reading.intensity_range or find_depth(image, values)[1:]
        return Image.fromarray(scale_values(values, low, high)).convert("RGB")
    if image.mode == "RGB" and (reading.drops_alpha or "transparency" not in image.info):
        return image
    if image.mode in ("La", "RGBa"):  # alpha already multiplied in: undo it first
        image = image.convert(image.mode.replace("a", "A"))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes) and reading.drops_alpha:
        image = image.copy()  # Pillow warns of dropping it
        del image.info["transparency"]
    if reading.drops_alpha or not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, (*parse_background(reading.alpha_background), 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


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
