"""Before training the scan says what pipeline() reads otherwise, what a reading ruins, and what would mend it."""

import logging

import numpy as np
import pytest
from pictures import encode, photo
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.scan import check_images


@pytest.fixture
def hint(load, tmp_path, caplog):
    """Write ten files, five a class; return the hints of their scan, which the log has too."""

    def call(files, every=False, **arguments):
        folder = tmp_path / f"train{len(list(tmp_path.iterdir()))}"
        for number, data in enumerate(files):
            path = folder / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        arguments = {"train_dir": str(folder), "test_split": 0, "train_val_split": 0, **arguments}
        dataset = load(**arguments)
        before = len(dataset.record.notes)
        caplog.clear()
        caplog.set_level(logging.WARNING)
        checked = check_images(dataset, DataArguments(cache_dir=str(tmp_path / "cache"), **arguments))
        hints = [note for note in checked.record.notes[before:] if every or "same pixels" not in note]
        assert all(hint in caplog.text for hint in hints)
        again = check_images(dataset, DataArguments(cache_dir=str(tmp_path / "cache"), **arguments))
        assert again.record == checked.record  # as scanned before
        return hints

    return call


def icon(number, ink=0):
    """A shape on nothing."""
    pixels = np.full((8, 8, 4), ink, np.uint8)
    pixels[..., 3] = 0
    pixels[2 : 4 + number % 3, 1:5, 3] = 255
    return encode(Image.fromarray(pixels))


def deep(dtype, low, high, format="PNG"):
    """Ten files of values between two ends, each of which has both."""
    values = [np.linspace(low, high, 64).astype(dtype).reshape(8, 8) for _ in range(10)]
    return [encode(Image.fromarray(np.roll(value, n)), format) for n, value in enumerate(values)]


def test_ordinary_pictures_need_no_hint(hint):
    opaque = photo(8, 8).convert("RGBA")
    assert hint([encode(photo(8, 8, n)) for n in range(10)], alpha_background="white") == []
    assert hint([encode(opaque) for _ in range(10)]) == []
    assert hint([encode(opaque) for _ in range(10)], alpha_background="white") == []
    assert hint([encode(Image.new("RGB", (8, 8), "red")) for n in range(10)]) == []  # flat in truth


@pytest.mark.parametrize(("ink", "colour"), [(0, "white"), (255, "black")])
def test_icons_that_become_one_flat_colour_are_counted(hint, ink, colour):
    files = [icon(n, ink) for n in range(8)] + [encode(photo(8, 8, n)) for n in range(2)]
    (text,) = hint(files)
    assert text.startswith(
        "8 of 10 images become one flat colour when transparency is dropped, as pipeline() drops it:"
    )
    assert f"--alpha_background {colour} keeps their shapes" in text


def test_a_chosen_background_is_counted_where_it_changes_pixels(hint):
    see_through = photo(8, 8)
    see_through.putalpha(100)
    files = [icon(n) for n in range(5)] + [encode(see_through)] * 2 + [encode(photo(8, 8, n)) for n in range(3)]
    (text,) = hint(files, alpha_background="white")
    assert text.startswith("7 of 10 images are transparent and read over white; a plain pipeline() drops transparency")
    assert "5 of them as one flat colour" in text


def test_a_sliver_of_a_types_range_is_measured(hint):
    plain, text = hint(deep(np.uint16, 135, 1560))
    assert plain.startswith("Of 10 images 10 are 16-bit: their values 0 to 65,535 become the grey levels 0 to 255")
    assert "between 135 and 1,560: at most 6 of 256 grey levels" in text
    assert "--intensity_range 135 1560 uses all" in text
    assert len(hint(deep(np.uint16, 135, 1560), intensity_range=[135, 1560])) == 1
    assert len(hint(deep(np.uint16, 0, 65000))) == 1


def test_signed_and_float_values_outside_are_measured(hint):
    assert "--intensity_range -900 400 uses all" in hint(deep(np.int32, -900, 400, "TIFF"))[1]
    assert "--intensity_range -1000 3000 keeps it" in hint(deep(np.float32, -1000, 3000, "TIFF"))[1]
    assert len(hint(deep(np.float32, -1, 1, "TIFF"))) == 1
    mixed = hint([*deep(np.float32, 0, 1, "TIFF")[:5], *deep(np.float32, -1, 1, "TIFF")[:5]])
    assert "scaled image by image. --intensity_range -1 1 reads all of them alike" in mixed[1]


def test_a_range_that_nothing_has_is_said(hint):
    (text,) = hint([encode(photo(8, 8, n)) for n in range(10)], intensity_range=[0, 4095])
    assert text.startswith("--intensity_range changes nothing")


def test_what_a_reading_leaves_out_tells_pictures_apart(hint):
    """Icons that are black all over without their alpha channel are not copies of each other, nor are deep pictures."""
    icons = [np.zeros((8, 8, 4), np.uint8) for _ in range(10)]
    for number, pixels in enumerate(icons):
        pixels[number % 8, : number + 1, 3] = 255
    notes = hint([encode(Image.fromarray(pixels)) for pixels in icons], every=True)
    assert not [note for note in notes if "same pixels" in note]
    notes = hint([encode(Image.fromarray(np.full((8, 8), n, np.int32)), "TIFF") for n in range(10)], every=True)
    assert not [note for note in notes if "same pixels" in note]
    assert [note for note in hint([icon(0)] * 10, every=True) if "same pixels" in note]
