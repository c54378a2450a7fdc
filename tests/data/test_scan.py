"""Every image is decoded before training: what cannot be read is told or left out, and no file is touched."""

import csv
import hashlib
import io
import logging
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numbered_images import decode_value, encode_png, make_dataset
from pictures import encode, photo
from PIL import Image

from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data import survey as survey_module
from hf_imgcls.data.dataset import ImageDataset
from hf_imgcls.data.scan import check_images
from hf_imgcls.errors import ArgumentError, DataError, MachineError
from hf_imgcls.records import DataRecord

WHOLE = {"test_split": 0, "train_val_split": 0}


@pytest.fixture
def check(load, tmp_path):
    """Load, then check, with a cache that only this test has."""

    def call(report=None, cache="cache", **arguments):
        dataset = load(**arguments)
        arguments = {name: str(value) if name.endswith(("dir", "file")) else value for name, value in arguments.items()}
        return check_images(dataset, DataArguments(cache_dir=str(tmp_path / cache), **arguments), report)

    return call


@pytest.fixture
def in_parallel(monkeypatch):
    """Leave everything to worker processes."""
    monkeypatch.setattr(survey_module, "_ALONE_S", 0.0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    yield
    for process in multiprocessing.active_children():  # of a loader that failed; it would wait 5 s for each
        process.kill()


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it to make every later attempt to look at an image fail the test."""
    return lambda: monkeypatch.setattr(
        survey_module._Looker, "_look", lambda self, source: pytest.fail(f"decoded again: {source}")
    )


def hash_tree(folder):
    """A digest of all names, contents, link targets, modes and times below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        digest.update(f"{path} {status.st_mode} {status.st_size} {status.st_mtime_ns} ".encode() + content)
    return digest.hexdigest()


def read_report(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def claim_size(width, height):
    """A PNG of 100 bytes that says it is that large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


def flip_pixels():
    """A PNG whose compressed pixels are damaged in such a way that Pillow reads other pixels out of it, silently."""
    whole = encode(photo(32, 32), "PNG")
    start = whole.index(b"IDAT") + 4
    for place in range(start + 40, len(whole) - 30):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        try:
            with Image.open(io.BytesIO(bytes(damaged))) as image:
                image.load()
        except Exception:
            continue
        return bytes(damaged)
    raise AssertionError("every damage is noticed by decoding")


# ------------------------------------------------------------------------------------------------ what is found


def test_every_kind_of_bad_file_is_told_with_its_reason(check, make_folders, tmp_path):
    folder = make_folders("train", {"a": 5, "b": 5})
    jpeg = encode(photo(64, 64), "JPEG")
    files = {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "image file is truncated"),
        "empty.jpg": (b"", "the file is empty"),
        "text.jpg": (b"<html>404 Not Found</html>", "a web page (HTML)"),
        "heic.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC file"),
        "flipped.png": (flip_pixels(), "broken PNG file"),
        "claims.png": (claim_size(50_000, 50_000), "decompression bomb"),
        "warned.png": (claim_size(12_000, 12_000), "has 12000 x 12000 pixels"),
        "nan.tif": (encode(Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)), "TIFF"), "NaN or infinite"),
    }
    for name, (content, _) in files.items():
        (folder / "b" / name).write_bytes(content)
    expected = {str(folder / "b" / name): reason for name, (_, reason) in files.items()}
    (folder / "a" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected[str(folder / "a" / "gone.jpg")] = "No such file or directory"
    if os.geteuid():
        (folder / "a" / "0.png").chmod(0)
        expected[str(folder / "a" / "0.png")] = "Permission denied"
    report = tmp_path / "bad_images.csv"
    with pytest.raises(DataError) as caught:
        check(report, train_dir=folder, **WHOLE)
    rows = {row["file"]: row for row in read_report(report)}
    assert rows.keys() == expected.keys()
    for file, reason in expected.items():
        assert reason in rows[file]["reason"], file
        assert file not in rows[file]["reason"]
        assert (rows[file]["split"], rows[file]["class_name"]) == ("train", file.split("/")[-2])
    message = str(caught.value)
    assert f"{len(expected)} of {10 + 9} images cannot be read" in message
    assert all(file in message for file in expected)
    assert str(report) in message
    assert "--on_bad_image skip" in message


def test_flipped_pixels_would_be_trained_on_unnoticed():
    """Why checksums are looked at: decoding alone takes the damaged file."""
    assert Image.open(io.BytesIO(flip_pixels())).convert("RGB").size == (32, 32)


def test_what_the_arguments_refuse_is_refused_here(check, make_folders):
    folder = make_folders("train", {"a": 5, "b": 5})
    check(train_dir=folder, max_image_pixels=16)
    with pytest.raises(DataError, match=r"10 of 10 images cannot be read(.|\n)*4 x 4 pixels(.|\n)*at most 15 pixels"):
        check(train_dir=folder, max_image_pixels=15)
    with pytest.raises(ArgumentError, match="alpha_background"):
        check(train_dir=folder, alpha_background="purpel")


# ------------------------------------------------------------------------------------------------ both policies

BAD = (7, 111, 222, 333, 499)


@pytest.fixture
def five_of_500(make_folders):
    """500 images of two classes, of which 1 % is broken; image ``n`` of 0..249 of a class has the value n."""
    folder = make_folders("set", {"cat": 250, "dog": 250})
    for number in BAD:
        (folder / ("cat", "dog")[number // 250] / f"{number % 250}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return folder


def test_one_percent_unreadable_is_an_error(check, five_of_500, tmp_path):
    before = hash_tree(five_of_500)
    report = tmp_path / "bad_images.csv"
    with pytest.raises(DataError, match="5 of 500 images cannot be read"):
        check(report, train_dir=five_of_500, test_split=100, train_val_split=50)
    assert sorted(int(row["sample_index"]) for row in read_report(report)) == list(BAD)
    assert hash_tree(five_of_500) == before


def test_one_percent_unreadable_is_left_out(check, load, five_of_500, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    before = hash_tree(five_of_500)
    report = tmp_path / "bad_images.csv"
    arguments = {"train_dir": five_of_500, "test_split": 100, "train_val_split": 50}
    whole = load(**arguments)
    checked = check(report, on_bad_image="skip", **arguments)
    assert hash_tree(five_of_500) == before
    every = []
    for role, split in checked.splits.items():
        expected = [index for index in whole.splits[role]["sample_index"][:] if index not in BAD]
        assert split["sample_index"][:] == expected  # every good row, once, in order
        every += expected
        for row in split.select(range(10)):
            assert decode_value({"bytes": Path(row["image"]["path"]).read_bytes()}) == row["sample_index"] % 250
        part = checked.record.splits[role]
        assert part.num_examples == len(expected) == sum(part.class_counts.values())
        assert part.class_counts["cat"] == sum(index < 250 for index in expected)
    assert sorted(every) == sorted(set(range(500)) - set(BAD))
    rows = read_report(report)
    assert {int(row["sample_index"]): row["class_name"] for row in rows} == {
        number: ("cat", "dog")[number // 250] for number in BAD
    }
    for role in {row["split"] for row in rows}:
        count = sum(row["split"] == role for row in rows)
        note = f"{count} of {len(whole.splits[role])} images of {role} cannot be read and were left out: "
        assert any(text.startswith(note) and "see bad_images.csv" in text for text in checked.record.notes)
    assert "not an image" in caplog.text
    assert whole.record.splits["train"].num_examples == len(whole.splits["train"]) == 350  # not changed
    assert checked.record.image_modes == {"L": 495}
    checked.record.save(tmp_path / "data.json")
    assert DataRecord.load(tmp_path / "data.json") == checked.record


def test_nothing_bad_is_no_report(check, make_folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    report = tmp_path / "bad_images.csv"
    report.write_text("of an earlier scan")
    folder = make_folders("train", {"a": 10, "b": 10})
    plain = check(report, train_dir=folder, on_bad_image="skip")
    assert not report.exists()
    assert "Images: 20 decoded in 0." in caplog.text
    assert "all readable" in caplog.text
    assert check(train_dir=folder).record == plain.record


def test_leaving_out_has_limits(check, make_folders, tmp_path):
    folder = make_folders("train", {"a": 6, "b": 6, "c": 6})
    test = make_folders("test", {"a": 1, "b": 1})
    arguments = {"train_dir": folder, "test_dir": test, "train_val_split": 3, "on_bad_image": "skip"}
    for path in (folder / "b").iterdir():
        path.write_bytes(b"")
    checked = check(**arguments)
    assert checked.record.splits["train"].class_counts["b"] == 0
    assert any("No readable image is left in train of 1 classes: 'b'" in note for note in checked.record.notes)
    for path in (folder / "c").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="without them train has a single class"):
        check(**arguments)
    for path in (test / "a" / "0.png", test / "b" / "0.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="without them test is empty"):
        check(test_dir=test, on_bad_image="skip")


def test_long_tables_are_shortened_in_the_error_and_whole_in_the_report(check, make_folders, tmp_path):
    folder = make_folders("train", {"a": 30, "b": 30})
    for path in (folder / "a").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="and 10 more") as caught:
        check(tmp_path / "bad.csv", train_dir=folder, **WHOLE)
    assert str(caught.value).count("the file is empty") == 20
    assert len(read_report(tmp_path / "bad.csv")) == 30


def test_names_cannot_break_the_table(check, make_folders, tmp_path):
    names = ['a,"b"', "line\nbreak\r", "=1+1;\t'x'", "\x1b[31mred"]
    folder = make_folders("train", dict.fromkeys(names, 2))
    for name in names:
        (folder / name / f'{name[:3]}",\r\n.png').write_bytes(b"")
    report = tmp_path / "bad.csv"
    with pytest.raises(DataError) as caught:
        check(report, train_dir=folder, **WHOLE)
    rows = read_report(report)
    # What a spreadsheet would take for a formula is marked as text.
    assert sum(row["class_name"].startswith("'=") for row in rows) == 1
    assert sorted(row["class_name"].removeprefix("'") for row in rows) == sorted(names)
    for row in rows:
        name = row["class_name"].removeprefix("'")
        assert row["file"] == str(folder / name / f'{name[:3]}",\r\n.png')
        assert None not in row
    assert len([line for line in str(caught.value).split("\n") if "the file is empty" in line]) == len(names)
    assert "\x1b" not in str(caught.value)
    assert "\r" not in str(caught.value)


def test_images_without_a_path_are_named_by_their_size_and_row(check, tmp_path):
    rows = make_dataset([0, 1] * 4, ["a", "b"])
    table = rows.cast_column("image", datasets.Image(decode=False)).to_list()
    table[5]["image"] = {"bytes": b"x" * 1234, "path": None}
    table[6]["image"] = None
    datasets.Dataset.from_list(table, features=rows.features).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError) as caught:
        check(dataset_name=str(tmp_path / "saved"), **WHOLE)
    lines = str(caught.value).splitlines()
    assert any(re.search(r"an image of 1,234 bytes +train +b +5 +not an image", line) for line in lines)
    assert any("train" in line and "an image that is None" in line for line in lines)


# ------------------------------------------------------------------------------------------------ switched off


def test_scan_that_is_switched_off_tries_the_first_image_of_each_class(check, make_folders, caplog):
    folder = make_folders("train", {"a": 3, "b": 3, "c": 3})
    (folder / "b" / "1.png").write_bytes(b"")
    caplog.set_level(logging.INFO)
    checked = check(train_dir=folder, scan_images=False, **WHOLE)
    assert "Images: 3 decoded" in caplog.text
    assert checked.record.image_modes is None
    with pytest.raises(DataError, match="1 of 9 images cannot be read"):
        check(train_dir=folder, **WHOLE)
    (folder / "a" / "0.png").write_bytes(b"no image")
    (folder / "c" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)2 of 3 images.*a/0.png.*not an image.*c/0.png.*--scan_images true"):
        check(train_dir=folder, scan_images=False, **WHOLE)


def test_streams_are_passed_through():
    dataset = ImageDataset({"train": object()}, ["a", "b"], DataRecord("stream", ["a", "b"], "image", "label"))
    assert check_images(dataset, DataArguments(streaming=True)) is dataset


# ------------------------------------------------------------------------------------------------ kept results


def test_unchanged_data_is_decoded_once(check, make_folders, no_decoding, caplog):
    caplog.set_level(logging.INFO)
    folder = make_folders("train", {"a": 20, "b": 20})
    (folder / "a" / "3.png").write_bytes(b"")
    first = check(train_dir=folder, on_bad_image="skip")
    no_decoding()
    assert check(train_dir=folder, on_bad_image="skip").record == first.record
    assert "Images: 40 as scanned before, 1 cannot be read" in caplog.text


def test_a_file_changed_in_place_is_decoded_again(check, make_folders):
    folder = make_folders("train", {"a": 5, "b": 5})
    first = check(train_dir=folder)
    path = folder / "a" / "2.png"
    status = path.stat()
    assert check(train_dir=folder).record == first.record
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # the same size and time of modification
    with pytest.raises(DataError, match=r"1 of 10 images cannot be read(.|\n)*a/2\.png"):
        check(train_dir=folder)


def test_what_is_kept_belongs_to_the_arguments_of_decoding(check, make_folders, no_decoding):
    folder = make_folders("train", {"a": 5, "b": 5})
    check(train_dir=folder)
    no_decoding()
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        check(train_dir=folder, alpha_background="black")
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        check(train_dir=folder, max_image_pixels=1000)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "other columns", "other rows"])
def test_a_damaged_result_is_made_again(check, make_folders, tmp_path, damage):
    folder = make_folders("train", {"a": 5, "b": 5})
    first = check(train_dir=folder)
    kept = list((tmp_path / "cache" / "hf_imgcls").glob("scan-*.parquet"))
    assert len(kept) == 3
    whole = {path: (path.read_bytes(), pq.read_table(path)) for path in kept}
    for path, (content, table) in whole.items():
        middle = content.index(table["content_hash"][0].as_py())
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "text": b"{}", "cut": content[:-20], "flipped": flipped}.get(damage, b""))
        if damage == "other columns":
            pq.write_table(table.drop_columns("content_hash"), path)
        elif damage == "other rows":
            pq.write_table(pa.concat_tables([table, table]), path)
    assert check(train_dir=folder).record == first.record
    assert {path: path.read_bytes() for path in kept} == {path: content for path, (content, _) in whole.items()}


def test_a_cache_that_cannot_be_written_costs_only_time(check, make_folders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "occupied").write_text("a file")
    folder = make_folders("train", {"a": 5, "b": 5})
    checked = check(train_dir=folder, cache="occupied")
    assert checked.record == check(train_dir=folder).record
    assert "is not kept" in caplog.text


def test_files_that_could_not_be_opened_are_tried_again(check, make_folders, monkeypatch):
    """As rights, a disk or a network may have been mended; the other processes of a run take the first one's word."""
    folder = make_folders("train", {"a": 5, "b": 5})
    open_file = type(folder).open

    def refuse(path, *args, **options):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied")
        return open_file(path, *args, **options)

    arguments = {"train_dir": folder, "on_bad_image": "skip", **WHOLE}
    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "open", refuse)
        assert len(check(**arguments).splits["train"]) == 8
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        assert len(check(**arguments).splits["train"]) == 8
    assert len(check(**arguments).splits["train"]) == 10


def test_only_the_main_process_writes_the_report(check, five_of_500, tmp_path, monkeypatch):
    report = tmp_path / "bad_images.csv"
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(DataError, match="5 of 500"):
        check(report, train_dir=five_of_500)
    assert not report.exists()


# ------------------------------------------------------------------------------------------------ fingerprints


def prints(checked):
    return {role: part.fingerprint for role, part in checked.record.splits.items()}


FINGERPRINT = """
import sys
from hf_imgcls.arguments.fields import DataArguments
from hf_imgcls.data.load import load_image_dataset
from hf_imgcls.data.scan import check_images

args = DataArguments(train_dir=sys.argv[1], cache_dir=sys.argv[2])
print({role: part.fingerprint for role, part in check_images(load_image_dataset(args), args).record.splits.items()})
"""


def test_fingerprints_are_those_of_a_copy_and_of_another_process(check, make_folders, tmp_path):
    folder = make_folders("one/set", {"a": 10, "b": 10})
    first = prints(check(train_dir=folder))
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in first.values())
    assert len(set(first.values())) == 3
    shutil.copytree(folder, tmp_path / "two" / "copy")
    line = [sys.executable, "-c", FINGERPRINT, str(tmp_path / "two" / "copy"), str(tmp_path / "other cache")]
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(first)


def test_fingerprints_notice_bytes_labels_and_order(check, make_folders):
    arguments = {"train_dir": make_folders("set", {"a": 5, "b": 5}), **WHOLE}
    folder, found = arguments["train_dir"], []

    def look():
        found.append(prints(check(**arguments))["train"])

    look()
    (folder / "a" / "2.png").write_bytes(encode_png(77))  # a pixel
    look()
    (folder / "a" / "2.png").write_bytes(encode_png(77) + b"\0")  # a byte
    look()
    first, second = folder / "a" / "3.png", folder / "a" / "4.png"
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])  # the order
    second.write_bytes(contents[0])
    look()
    (folder / "a").rename(folder / "aa")  # a name, with the same ids
    look()
    (folder / "b" / "0.png").rename(folder / "aa" / "5.png")  # a label
    look()
    assert len(set(found)) == len(found)
    look()
    assert found[-1] == found[-2]


def test_fingerprints_go_by_class_names_not_ids(check, tmp_path):
    for name, labels, names in (("one", [0, 1, 0, 1], ["a", "b"]), ("two", [1, 0, 1, 0], ["b", "a"])):
        make_dataset(labels, names).save_to_disk(tmp_path / name)
    one, two = (prints(check(dataset_name=str(tmp_path / name), **WHOLE)) for name in ("one", "two"))
    assert one == two


def test_fingerprints_without_a_scan_are_others(check, make_folders):
    arguments = {"train_dir": make_folders("set", {"a": 5, "b": 5}), **WHOLE}
    scanned, not_scanned = prints(check(**arguments)), prints(check(scan_images=False, **arguments))
    assert scanned["train"] != not_scanned["train"]
    (arguments["train_dir"] / "a" / "2.png").write_bytes(encode_png(77))
    assert prints(check(scan_images=False, **arguments)) == not_scanned
    (arguments["train_dir"] / "b").rename(arguments["train_dir"] / "c")
    assert prints(check(scan_images=False, **arguments)) != not_scanned


def test_the_built_in_sample_has_the_same_fingerprint_everywhere(check):
    """Its files are made on the machine, so their bytes must not depend on it."""
    assert prints(check(dataset_name="digits", **WHOLE)) == {"train": "997b34fbfce9853e"}


# ------------------------------------------------------------------------------------------------ content hashes


def hash_contents(pictures, folder):
    """The content hash and flatness of each picture, by decoding its file."""
    folder.mkdir()
    for number, (suffix, data) in enumerate(pictures):
        (folder / f"{number}.{suffix}").write_bytes(data)
    split = datasets.Dataset.from_dict(
        {"image": [str(path) for path in sorted(folder.iterdir())]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    surveys = survey_module.survey_splits({"train": split}, DataArguments(), kept=False)
    return surveys["train"].images


def test_a_picture_has_one_content_hash_in_every_file(tmp_path):
    rgb, grey = photo(height=24, width=16), photo(24, 16).convert("L")
    turned = rgb.transpose(Image.Transpose.ROTATE_90)  # a file on its side that says which side is up
    exif = Image.Exif()
    exif[0x0112] = 6
    same = [
        ("png", encode(rgb, "PNG")),
        ("bmp", encode(rgb, "BMP")),
        ("tif", encode(rgb, "TIFF")),
        ("png", encode(rgb, "PNG", compress_level=0)),
        ("png", encode(turned, "PNG", exif=exif)),
    ]
    others = [
        ("png", encode(rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG")),
        ("png", encode(rgb.transpose(Image.Transpose.ROTATE_180), "PNG")),
        ("png", encode(turned, "PNG")),
        ("png", encode(Image.frombytes("RGB", (24, 16), rgb.tobytes()), "PNG")),  # the same bytes in another shape
        ("png", encode(grey, "PNG")),
    ]
    found = hash_contents(same + others, tmp_path / "pictures")
    hashes = found["content_hash"].to_pylist()
    assert all(len(value) == 16 for value in hashes)
    assert len(set(hashes[: len(same)])) == 1
    assert len(set(hashes)) == 1 + len(others)
    assert len(set(found["file_hash"].to_pylist())) == len(same) + len(others)
    assert not any(found["is_flat"].to_pylist())


def test_flat_pictures_are_those_of_one_colour(tmp_path):
    almost = Image.new("RGB", (5, 3), (1, 2, 3))
    almost.putpixel((2, 1), (1, 2, 4))
    pictures = [Image.new("RGB", (5, 3), (1, 2, 3)), Image.new("L", (1, 1), 9), almost, photo(5, 3)]
    found = hash_contents([("png", encode(picture, "PNG")) for picture in pictures], tmp_path / "pictures")
    assert found["is_flat"].to_pylist() == [True, True, False, False]


# ------------------------------------------------------------------------------------------------ processes


def test_parallel_equals_inline(check, five_of_500, monkeypatch):
    arguments = {"train_dir": five_of_500, "on_bad_image": "skip"}
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr(survey_module, "_ALONE_S", 0.0)
    inline = check(**arguments)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    state = torch.random.get_rng_state()
    parallel = check(cache="other", **arguments)
    assert torch.equal(torch.random.get_rng_state(), state)  # a run's numbers must not depend on what is kept
    assert parallel.record == inline.record
    for role, split in inline.splits.items():
        assert parallel.splits[role]["sample_index"][:] == split["sample_index"][:]


def test_a_process_that_dies_is_an_error(check, five_of_500, in_parallel, monkeypatch):
    main, look = os.getpid(), survey_module._Looker._look

    def die(self, source):
        if source["path"].endswith("dog/100.png") and os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return look(self, source)

    monkeypatch.setattr(survey_module._Looker, "_look", die)
    with pytest.raises(MachineError, match=r"a process that decoded images of train died after (\d+) of 500") as caught:
        check(train_dir=five_of_500, **WHOLE)
    assert int(re.search(r"after (\d+)", str(caught.value))[1]) <= 350


def test_a_bug_is_shown_as_one(check, five_of_500, monkeypatch):
    def fail(self, source):
        raise RuntimeError("a bug")

    monkeypatch.setattr(survey_module._Looker, "_look", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        check(train_dir=five_of_500)
