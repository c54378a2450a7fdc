"""Odd images, hostile images, and the ways to the same pixels."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from pictures import encode, photo
from PIL import Image

from hf_imgcls.classifier.decode import EncodedImage, choose_reduction, decode_image
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.errors import ArgumentError, DataError

SIMPLEJPEG = Reading(decoder="simplejpeg")


def pixel(data, **options):
    image = decode_image(data, Reading(**options))
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def flat(mode, colour):
    return Image.new(mode, (4, 4), colour)


def palette_image(transparent):
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encode(image, transparency=1) if transparent else encode(image)


def uint16_image(value):
    return Image.fromarray(np.full((4, 4), value, dtype=np.uint16))


def animation(format):
    return encode(flat("RGB", (255, 0, 0)), format, save_all=True, append_images=[flat("RGB", (0, 0, 255))])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(flat("RGB", (1, 2, 3))), (1, 2, 3)),
        (encode(flat("1", 1)), (255, 255, 255)),
        (encode(flat("L", 77)), (77, 77, 77)),
        (encode(flat("L", 77), transparency=77), (77, 77, 77)),
        (encode(flat("LA", (100, 0))), (100, 100, 100)),
        (encode(flat("LA", (100, 255))), (100, 100, 100)),
        (encode(flat("RGBA", (10, 20, 30, 0))), (10, 20, 30)),
        (encode(flat("RGBA", (10, 20, 30, 255))), (10, 20, 30)),
        (encode(flat("RGBA", (0, 100, 255, 128))), (0, 100, 255)),
        (encode(flat("RGB", (9, 8, 7)), transparency=(9, 8, 7)), (9, 8, 7)),
        (palette_image(False), (200, 100, 50)),
        (palette_image(True), (200, 100, 50)),
        (encode(uint16_image(0)), (0, 0, 0)),
        (encode(uint16_image(257)), (1, 1, 1)),
        (encode(uint16_image(32768)), (128, 128, 128)),
        (encode(uint16_image(65535)), (255, 255, 255)),
        (encode(uint16_image(51400), "TIFF"), (200, 200, 200)),
        (encode(uint16_image(51400), "PPM"), (200, 200, 200)),
        (encode(flat("I", 2**30), "TIFF"), (191, 191, 191)),
        (encode(flat("F", 0.5), "TIFF"), (128, 128, 128)),
        (encode(flat("F", 200.0), "TIFF"), (200, 200, 200)),
        (encode(flat("CMYK", (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        (encode(flat("CMYK", (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (animation("GIF"), (255, 0, 0)),
        (animation("PNG"), (255, 0, 0)),
        (encode(flat("RGB", (1, 2, 3)), "BMP"), (1, 2, 3)),
        (encode(flat("RGB", (1, 2, 3)), "WEBP", lossless=True), (1, 2, 3)),
    ],
)
def test_odd_images_become_the_expected_rgb(data, expected):
    assert pixel(data) == expected


def test_premultiplied_and_in_memory_images():
    premultiplied = flat("RGBa", (50, 50, 50, 128))
    assert decode_image(premultiplied, Reading(alpha_background="white")).getpixel((0, 0)) == (177, 177, 177)
    assert decode_image(premultiplied).getpixel((0, 0)) == (99, 99, 99)
    assert decode_image(flat("I", 51400)).getpixel((0, 0)) == (200, 200, 200)


def test_twelve_bits_are_scaled_by_their_own_range():
    # Pillow reads 12-bit TIFFs and does not write them: the tags of a 16-bit one are patched, the strip packed by hand.
    data = bytearray(encode(Image.fromarray(np.zeros((1, 2), dtype=np.uint16)), "TIFF"))
    strip = Image.open(io.BytesIO(data)).tag_v2[273][0]
    entry = next(i for i in range(len(data)) if data[i : i + 4] == (258).to_bytes(2, "little") + b"\x03\x00")
    data[entry + 8 : entry + 10] = (12).to_bytes(2, "little")
    data[strip : strip + 3] = b"\xff\xf0\x00"  # 4095, 0
    assert decode_image(bytes(data)).getpixel((0, 0)) == (255, 255, 255)


def test_background_is_what_shows_through():
    transparent = encode(flat("RGBA", (0, 0, 0, 0)))
    assert pixel(transparent, alpha_background="white") == (255, 255, 255)
    assert pixel(transparent, alpha_background="#102030") == (16, 32, 48)
    half = encode(flat("RGBA", (0, 100, 255, 128)))
    assert pixel(half, alpha_background="white") == (127, 177, 255)
    assert pixel(encode(flat("LA", (100, 255))), alpha_background="white") == (100, 100, 100)
    for other in (
        encode(flat("L", 77), transparency=77),
        encode(flat("RGB", (9, 8, 7)), transparency=(9, 8, 7)),
        encode(flat("LA", (100, 0))),
        palette_image(True),
    ):
        assert pixel(other, alpha_background="#102030") == (16, 32, 48)
    with pytest.raises(ArgumentError, match="alpha_background"):
        pixel(transparent, alpha_background="no colour")


@pytest.mark.parametrize("orientation", range(1, 10))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_is_applied_as_pillow_does(format, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation  # 9 does not exist and means nothing
    data = encode(photo(16, 32), format, exif=exif)
    expected = Image.open(io.BytesIO(data))
    if format != "TIFF":  # turned on loading
        expected = ImageOps.exif_transpose(expected)
    expected.load()
    encoded = EncodedImage(data)
    assert encoded.size == expected.size
    assert encoded.read().tobytes() == expected.convert("RGB").tobytes()
    assert np.array_equal(EncodedImage(data).read_array()[..., :3], np.asarray(expected.convert("RGB")))


def test_a_broken_exif_block_costs_nothing():
    data = encode(photo(16, 16), "JPEG", exif=b"Exif\0\0 not exif at all")
    assert decode_image(data).size == (16, 16)


def test_sources_are_equivalent(tmp_path):
    image = photo(20, 30)
    path = tmp_path / "a.png"
    image.save(path)
    contents = path.read_bytes()
    sources = [path, str(path), contents, {"path": str(path), "bytes": None}, {"path": None, "bytes": contents}, image]
    assert {decode_image(source).tobytes() for source in sources} == {image.tobytes()}
    assert decode_image({"path": path.as_uri(), "bytes": None}).size == (30, 20)
    with pytest.raises(DataError, match="cannot read"):  # only a dataset's rows may point elsewhere
        decode_image(path.as_uri())


def test_pixels_are_lent_not_copied():
    pytest.importorskip("pyarrow")
    image = photo(40, 60)
    pixels = EncodedImage(image).read_array()
    assert pixels.shape == (40, 60, 4)
    image.putpixel((0, 0), (1, 2, 3))
    assert tuple(pixels[0, 0, :3]) == (1, 2, 3)
    # What does not fit into one of Pillow's memory blocks is copied.
    assert np.array_equal(EncodedImage(Image.new("RGB", (2100, 2100), "red")).read_array()[-1, -1, :3], (255, 0, 0))


def test_simplejpeg_gives_the_pixels_of_pillow():
    pytest.importorskip("simplejpeg")
    for options in ({"subsampling": 0}, {"subsampling": 2}, {"progressive": True}):
        data = encode(photo(150, 203), "JPEG", quality=88, **options)
        for reduce in (1, 2, 4, 8):
            fast = EncodedImage(data, SIMPLEJPEG).read_array(reduce)[..., :3]
            slow = EncodedImage(data).read_array(reduce)[..., :3]
            assert np.array_equal(fast, slow)
    gray = encode(photo(20, 20).convert("L"), "JPEG")
    assert EncodedImage(gray, SIMPLEJPEG).read_array().shape[:2] == (20, 20)


def test_scaled_decoding_stays_close_and_large_enough():
    data = encode(photo(75, 100).resize((800, 600)), "JPEG", quality=90)
    image = decode_image(data, min_size=(200, 150))
    assert image.size == (200, 150)
    full = decode_image(data).resize(image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(full, dtype=int)).mean() < 1.0
    assert decode_image(data, min_size=(700, 150)).size == (800, 600)
    assert choose_reduction((1600, 1200), (224, 224)) == 4
    assert choose_reduction((447, 600), (224, 224)) == 1


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    whole = encode(photo(64, 64), "JPEG")
    cases = {"cut.jpg": (whole[: len(whole) // 2], "truncated"), "text.png": (b"hello", "not an image")}
    for name, (contents, reason) in cases.items():
        path = tmp_path / name
        path.write_bytes(contents)
        with pytest.raises(DataError, match=reason) as error:
            decode_image(path)
        assert name in str(error.value)
    with pytest.raises(DataError, match=r"missing\.png"):
        decode_image(tmp_path / "missing.png")
    with pytest.raises(DataError, match="null byte"):
        decode_image(tmp_path / "a\0.png")
    with pytest.raises(DataError, match="the file is empty"):
        decode_image(b"")
    with pytest.raises(DataError, match="a path or the bytes"):
        decode_image({"path": None, "bytes": None})
    with pytest.raises(DataError, match="NaN"):
        decode_image(encode(flat("F", float("nan")), "TIFF"))
    with pytest.raises(DataError, match="not an image"):  # readable by Pillow, but not on the list
        decode_image(encode(flat("RGB", 0), "TGA"))


@pytest.mark.parametrize(
    ("mode", "format"), [("RGB", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "WEBP"), ("I;16", "TIFF"), ("1", "BMP")]
)
def test_the_mode_is_the_files_own(mode, format):
    image = EncodedImage(encode(Image.new(mode, (8, 8)), format))
    image.read()
    assert image.mode == mode


def test_checksums_of_png_files_are_looked_at_when_asked():
    whole = encode(photo(32, 32))
    EncodedImage(whole).verify()
    EncodedImage(encode(photo(32, 32), "JPEG")).verify()
    checksum = whole.index(b"IEND") - 8
    damaged = whole[:checksum] + bytes([whole[checksum] ^ 1]) + whole[checksum + 1 :]
    assert EncodedImage(damaged).read().size == (32, 32)
    with pytest.raises(DataError, match="broken PNG file"):
        EncodedImage(damaged).verify()


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    data = encode(flat("L", 0).resize((200, 100)))
    assert decode_image(data, Reading(max_pixels=20_000)).size == (200, 100)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
        with pytest.raises(DataError, match="200 x 100 pixels"):
            decode_image(data, Reading(max_pixels=19_999))
    # Pillow's own limit, where it only warns, is a limit too.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    with pytest.warns(Image.DecompressionBombWarning), pytest.raises(DataError, match="15,000 pixels"):
        decode_image(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)
    with pytest.raises(DataError, match="pixels"):
        decode_image(data)


def deep_png(colour_type, channels):
    """A PNG with 16 bits a channel, which Pillow reads and does not write."""
    values = np.random.default_rng(0).integers(0, 65536, (6, 9 * channels)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def odd_files():
    """Files of the kinds that strangers have, pixels varied and half of them transparent."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo(20, 30)
    alpha = Image.fromarray(np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30))
    rgba = picture.copy()
    rgba.putalpha(alpha)
    palette = picture.quantize(16)
    yield "RGB JPEG, turned", encode(picture, "JPEG", exif=exif)
    yield "RGBA PNG", encode(rgba)
    yield "RGBA PNG, turned", encode(rgba, exif=exif)
    yield "RGBA WebP", encode(rgba, "WEBP", lossless=True)
    yield "RGBA TIFF", encode(rgba, "TIFF")
    yield "LA PNG", encode(rgba.convert("LA"))
    yield "palette", encode(palette)
    yield "palette, one transparent colour", encode(palette, transparency=3)
    yield "palette, alphas", encode(palette, transparency=bytes(range(0, 256, 16)))
    yield "RGB, colour key", encode(picture, transparency=picture.getpixel((0, 0)))
    yield "grey, colour key", encode(picture.convert("L"), transparency=7)
    yield "transparent GIF", encode(palette, "GIF", transparency=2)
    yield "CMYK JPEG", encode(picture.convert("CMYK"), "JPEG")
    yield "CMYK TIFF", encode(picture.convert("CMYK"), "TIFF")
    yield "1-bit", encode(picture.convert("1"))
    yield "1-bit TIFF", encode(picture.convert("1"), "TIFF")
    yield "Lab TIFF", encode(Image.merge("LAB", picture.split()), "TIFF")
    yield "animated", encode(picture, "GIF", save_all=True, append_images=[alpha])
    yield "16-bit RGB", deep_png(2, 3)
    yield "16-bit RGBA", deep_png(6, 4)
    yield "16-bit grey with alpha", deep_png(4, 2)


@pytest.mark.parametrize("name", [name for name, _ in odd_files()])
@pytest.mark.filterwarnings("ignore:Palette images")
def test_files_are_read_as_pipeline_reads_them(name, tmp_path):
    from transformers.image_utils import load_image

    (tmp_path / "file").write_bytes(data := dict(odd_files())[name])
    served = load_image(str(tmp_path / "file"))
    encoded = EncodedImage({"path": str(tmp_path / "file"), "bytes": None})
    assert encoded.read().tobytes() == served.tobytes()
    assert encoded.reads_otherwise == ""
    over = EncodedImage(data, Reading(alpha_background="white"))
    assert np.array_equal(over.read_as_pipeline(), served)
    assert bool(over.reads_otherwise) is over.has_alpha


def tiff(values, sample_format=None):
    """A TIFF of numbers; ``sample_format`` 1 says that they are unsigned, 2 that they are signed."""
    if values.dtype == np.int16:  # Pillow would write 32 bits
        return encode(Image.fromarray(values.view(np.uint16)), "TIFF", tiffinfo={339: 2})
    data = bytearray(encode(Image.fromarray(values), "TIFF"))
    if sample_format is not None:
        entry = data.index((339).to_bytes(2, "little") + b"\x03\x00")
        data[entry + 8] = sample_format
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "kind", "expected"),
    [
        (tiff(np.array([[-32768, 0, 32767]], np.int16)), "signed 16-bit", [0, 128, 255]),
        (tiff(np.array([[-(2**31), 0, 2**31 - 1]], np.int32)), "signed 32-bit", [0, 128, 255]),
        (tiff(np.array([[0, 2**31 - 1, -1]], np.int32), 1), "32-bit", [0, 127, 255]),  # -1 is 2^32 - 1
        (tiff(np.array([[-1, 0, 0.5]], np.float32)), "float", [0, 128, 191]),
        (tiff(np.array([[0, 0.5, 1]], np.float32)), "float", [0, 128, 255]),
        (tiff(np.array([[0, 100, 255]], np.float32)), "float", [0, 100, 255]),
        (tiff(np.array([[0, 257, 65535]], np.uint16)), "16-bit", [0, 1, 255]),
        (encode(Image.fromarray(np.array([[0, 257, 65535]], ">u2")), "TIFF"), "16-bit", [0, 1, 255]),
    ],
)
def test_deep_pictures_are_scaled_by_the_range_of_their_type(data, kind, expected):
    encoded = EncodedImage(data)
    assert encoded.reads_otherwise == kind
    assert np.asarray(encoded.read())[0, :, 0].tolist() == expected


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
def test_a_range_of_intensities_holds_for_every_deep_type_and_for_no_other(dtype):
    values = np.array([[50, 100, 150, 300]], dtype)
    reading = Reading(intensity_range=(100.0, 200.0))
    assert np.asarray(decode_image(tiff(values), reading))[0, :, 0].tolist() == [0, 0, 127, 255]
    assert decode_image(encode(flat("L", 77)), reading).getpixel((0, 0)) == (77, 77, 77)


def test_other_formats_are_named(tmp_path):
    files = {
        "a HEIC file": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "a JPEG 2000 file": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
        "a Photoshop": b"8BPS\0\1" + bytes(30),
        "a DICOM file": bytes(128) + b"DICM" + bytes(9),
        "an SVG": b"<?xml version='1.0'?><svg/>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    }
    for name, contents in files.items():
        with pytest.raises(DataError, match=f"cannot read an image of .*: {name}") as error:
            decode_image(contents)
        assert error.value.fix != "repair or remove the file"


def test_a_file_with_too_many_bytes_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path, reading = tmp_path / "huge.png", Reading(max_pixels=100_000)
    with path.open("wb") as file:
        file.truncate(20 << 30)  # sparse: it takes no room
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", lambda *args, **options: pytest.fail("opened"))
        for source in (path, {"path": str(path), "bytes": None}):
            with pytest.raises(DataError, match=r"huge\.png has 21,474,836,480 bytes"):
                decode_image(source, reading)
    with pytest.raises(DataError, match=r"huge\.png has more than 1,848,576 bytes"):  # a remote one
        decode_image({"path": path.as_uri(), "bytes": None}, reading)
    with pytest.raises(DataError, match="has 1,900,000 bytes"):
        decode_image(bytes(1_900_000), reading)
    assert decode_image(encode(photo(16, 16)), reading).size == (16, 16)
    with pytest.raises(DataError, match="not a regular file"):
        decode_image("/dev/zero", reading)


def test_libtiff_writes_nothing_to_the_terminal():
    data = bytearray(encode(photo(64, 64), "TIFF", compression="tiff_deflate"))
    data[60:90] = bytes(range(30))
    decode = "image = Image.open(io.BytesIO(sys.stdin.buffer.read())); image.load()"
    for first, is_silent in (("", False), ("import hf_imgcls.classifier.decode", True)):
        code = f"import io, sys\nfrom PIL import Image\n{first}\n{decode}"
        result = subprocess.run([sys.executable, "-c", code], input=bytes(data), capture_output=True, check=False)
        assert b"OSError" in result.stderr
        assert (b"ZIPDecode" not in result.stderr) is is_silent


FUZZ = """
import io, sys, warnings
import numpy as np
from PIL import Image
from hf_imgcls.classifier.decode import EncodedImage
from hf_imgcls.classifier.reading import Reading
from hf_imgcls.errors import DataError

warnings.simplefilter("ignore")
random = np.random.default_rng(0)
coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((97, 61))
files = []
for format, options in (
    ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}), ("BMP", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
):
    file = io.BytesIO()
    coarse.save(file, format, **options)
    files.append(file.getvalue())
outcomes = {"image": 0, "error": 0}
for round in range(60):
    for whole in files:
        data = bytearray(whole)
        kind = round % 3
        if kind == 0:
            del data[int(random.integers(0, len(data))):]
        for _ in range((0, 1, 20)[kind]):
            data[random.integers(0, len(data))] = random.integers(0, 256)
        for decoder in sys.argv[1:]:
            try:
                array = EncodedImage(bytes(data), Reading(max_pixels=10**6, decoder=decoder)).read_array(1 + round % 2)
                int(array.sum())
                outcomes["image"] += 1
            except DataError:
                outcomes["error"] += 1
print(outcomes["image"], outcomes["error"])
"""


def test_corrupt_files_give_an_image_or_an_error_and_never_a_crash():
    try:
        import simplejpeg  # noqa: F401

        decoders = ["pillow", "simplejpeg"]
    except ImportError:
        decoders = ["pillow"]
    result = subprocess.run([sys.executable, "-c", FUZZ, *decoders], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    images, errors = map(int, result.stdout.split()[-2:])
    assert images + errors == 60 * 8 * len(decoders)
    assert images > 50
    assert errors > 50


def test_decoding_imports_no_torch():
    code = "import sys, hf_imgcls.classifier.decode; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
