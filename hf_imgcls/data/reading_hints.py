"""What the scan says before training about images that ``pipeline()`` reads otherwise, or that a reading ruins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from hf_imgcls.classifier.reading import Reading
from hf_imgcls.data.survey import SplitSurvey

_SLIVER = 1 / 8  # of the range of a type: 5 bits of 8 are left
_BOTH = "Both numbers are reported, and the model card shows the lines that convert a picture first."


def describe_reading(surveys: Iterable[SplitSurvey], reading: Reading, *, range_is_given: bool) -> list[str]:
    """Return one hint for each way in which a reading matters for a dataset; none where all is plain.

    Args:
        surveys: What was found in its splits.
        reading: How they were read.
        range_is_given: Whether ``--intensity_range`` was given in so many words.
    """
    images = pa.concat_tables([survey.images for survey in surveys])
    images = images.filter(images["mode"].is_valid())
    if not images.num_rows:
        return []
    return [
        *_describe_transparency(images, reading),
        *_describe_depth(images, reading, range_is_given=range_is_given),
    ]


def _describe_transparency(images: pa.Table, reading: Reading) -> list[str]:
    n, is_deep = images.num_rows, images["depth"].is_valid()
    shallow = images.filter(pc.invert(is_deep))
    flat = shallow["flat_level"].drop_null().to_pylist()
    if reading.drops_alpha:
        if not flat:
            return []
        colour = "white" if sum(flat) < 127 * len(flat) else "black"
        return [
            f"{len(flat):,} of {n:,} images become one flat colour when transparency is dropped, as pipeline() drops "
            f"it: --alpha_background {colour} keeps their shapes, and the model card then shows the lines that convert "
            "a picture for pipeline()."
        ]
    others = pc.sum(pc.equal(shallow["otherwise"], "transparent")).as_py() or 0
    if not others:
        return []
    ruined = f", {len(flat):,} of them as one flat colour" if flat else ""
    return [
        f"{others:,} of {n:,} images are transparent and read over {reading.alpha_background}; a plain pipeline() "
        f"drops transparency and reads them otherwise{ruined}. {_BOTH}"
    ]


def _describe_depth(images: pa.Table, reading: Reading, *, range_is_given: bool) -> list[str]:
    n, deep = images.num_rows, images.filter(images["depth"].is_valid())
    if not deep.num_rows:
        unused = "--intensity_range changes nothing: there are no 16-bit, 32-bit or float images."
        return [unused] if range_is_given else []
    kinds = Counter(deep["depth"].to_pylist()).most_common()
    ranges = sorted(set(zip(deep["type_low"].to_pylist(), deep["type_high"].to_pylist(), strict=True)))
    low, high = pc.min(deep["low"]).as_py(), pc.max(deep["high"]).as_py()
    used = reading.intensity_range or (ranges[0][0], max(end for _, end in ranges))
    counts = " and ".join(f"{count:,} are {kind}" for kind, count in kinds)
    scaled = " and ".join(
        f"{_show(first)} to {_show(last)}" for first, last in ([used] if len(ranges) == 1 else ranges)
    )
    if reading.intensity_range:
        scaled = f"{_show(used[0])} to {_show(used[1])}"
    hints = [
        f"Of {n:,} images {counts}: their values {scaled} become the grey levels 0 to 255, where a plain pipeline() "
        f"clips values at 255. {_BOTH}"
    ]
    advice = f"--intensity_range {_show(low, -1, ',')} {_show(high, 1, ',')}".replace(",", "")
    levels = pc.max(deep["num_levels"]).as_py()
    span = f"The values of these images lie between {_show(low)} and {_show(high)}"
    if low == high:
        return hints
    if high - low < _SLIVER * (used[1] - used[0]):
        hints.append(f"{span}: at most {levels} of 256 grey levels tell them apart. {advice} uses all of them.")
    elif low < used[0] - _SLIVER * (high - low) or high > used[1] + _SLIVER * (high - low):
        hints.append(f"{span}, and what is outside {_show(used[0])} to {_show(used[1])} is clipped. {advice} keeps it.")
    elif len(ranges) > 1 and not reading.intensity_range:
        hints.append(f"{span}, and are scaled image by image. {advice} reads all of them alike.")
    return hints


def _show(value: float, towards: int = 0, separator: str = ",") -> str:
    """Write a value with 4 digits, whole numbers in full; ``towards`` -1 rounds down and 1 up."""
    if float(value).is_integer() or abs(value) >= 1000:
        whole = int(value // 1) if towards < 0 else int(-(-value // 1)) if towards > 0 else round(value)
        return f"{whole:{separator}}"
    return f"{value:.4g}"
