"""Odd images, hostile images, and the ways to the same pixels."""

import io
import subprocess
import sys

import numpy as np
import pytest
from pictures import encode, photo
from PIL import Image

from hf_imgcls.data.decode import EncodedImage, choose_reduction, decode_image
from hf_imgcls.data.reading import Reading
from hf_imgcls.errors import ArgumentError, DataError


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
            fast = EncodedImage(data).read_array(reduce, decoder="simplejpeg")[..., :3]
            slow = EncodedImage(data).read_array(reduce)[..., :3]
            assert np.array_equal(fast, slow)
    gray = encode(photo(20, 20).convert("L"), "JPEG")
    assert EncodedImage(gray).read_array(decoder="simplejpeg").shape[:2] == (20, 20)


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


FUZZ = """
import io, sys, warnings
import numpy as np
from PIL import Image
from hf_imgcls.data.decode import EncodedImage
from hf_imgcls.data.reading import Reading
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
                array = EncodedImage(bytes(data), Reading(max_pixels=10**6)).read_array(1 + round % 2, decoder=decoder)
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
    code = "import sys, hf_imgcls.data.decode; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
