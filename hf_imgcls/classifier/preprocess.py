"""What an image processor does, taken apart: uint8 pixels in the workers, normalisation on the training device.

Evaluation must show the model exactly what the saved processor will show it when it is served, and a processor called
per image copies too much. So its operations are read off its attributes, and *verified*: at construction, both go over
the same random images, and where a single value differs the processor itself is called instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hf_imgcls.classifier.memory import ReusedMemory
from hf_imgcls.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Pillow's numbers, as processors write them. Training crops know two filters: the others (nearest, box, Hamming) do not
# work on tensors or make poor augmentation, and take their nearest relative.
_EVAL_FILTERS = {
    0: InterpolationMode.NEAREST,
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
}
_TRAIN_FILTERS: dict[Any, InterpolationMode] = dict.fromkeys((1, 3, "lanczos", "bicubic"), InterpolationMode.BICUBIC)


_CACHED_BYTES = 1 << 16  # below this an image is too small to be worth three calls of its own


class Normalizer:
    """uint8 pixels to the model's float32, on whatever device they are, by the processor's own formula.

    ``(x - mean / rescale_factor) / (std / rescale_factor)`` in float32, the subtraction and the division in place: the
    order of operations of transformers' torchvision-backed processors, so that results are equal to theirs bit by bit
    on CPU. Float input is what a processor has already normalised, and passes through.

    Args:
        mean: Per channel, on the scale of the rescaled pixels; None: do not normalise.
        std: Likewise.
        rescale_factor: What a pixel is multiplied with, commonly 1/255; None: do not rescale.
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, rescale_factor: float | None) -> None:
        self.rescale_factor = rescale_factor if mean is None else None
        self.mean = self.std = None
        if mean is not None and std is not None:
            scale = 1.0 / rescale_factor if rescale_factor is not None else 1.0
            self.mean = (torch.tensor(mean) * scale).reshape(-1, 1, 1)
            self.std = (torch.tensor(std) * scale).reshape(-1, 1, 1)
        self._on_device: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        self._memory = ReusedMemory()

    @classmethod
    def from_processor(cls, processor: Any) -> Normalizer:
        """Read mean, std and rescale factor off an image processor."""
        config = getattr(processor, "data_config", None)  # TimmWrapperImageProcessor
        if config is not None:
            return cls(config["mean"], config["std"], 1 / 255)
        normalize, rescale = getattr(processor, "do_normalize", False), getattr(processor, "do_rescale", False)
        return cls(
            processor.image_mean if normalize else None,
            processor.image_std if normalize else None,
            processor.rescale_factor if rescale else None,
        )

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            pixel_values: uint8 ``(B, 3, H, W)``, or float, which is returned as it is.

        Returns:
            float32 ``(B, 3, H, W)`` on the same device.
        """
        if pixel_values.is_floating_point():
            return pixel_values
        if pixel_values.device.type != "cpu":
            return self.normalize_(pixel_values.to(torch.float32))
        out = self._memory.take(pixel_values.shape, torch.float32)
        if out[0].nbytes < _CACHED_BYTES:
            return self.normalize_(out.copy_(pixel_values))
        # Image by image, so that all three steps find the pixels in the CPU's cache.
        for levels, pixels in zip(out, pixel_values, strict=True):
            self.normalize_(levels.copy_(pixels))
        return out

    def normalize_(self, levels: torch.Tensor) -> torch.Tensor:
        """Normalise float32 ``(..., 3, H, W)`` pixel levels 0..255 in place."""
        if self.mean is not None and self.std is not None:
            device = levels.device
            if device not in self._on_device:
                self._on_device[device] = (self.mean.to(device), self.std.to(device))
            mean, std = self._on_device[device]
            return levels.sub_(mean).div_(std)
        return levels.mul_(self.rescale_factor) if self.rescale_factor is not None else levels

    def restore_levels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The uint8 pixels that were normalised: float ``(..., 3, H, W)`` to uint8 of the same shape.

        Levels are whole numbers, and float32 is far more exact than half of one: nothing is lost.
        """
        return self.restore_floats(pixel_values).round().clamp(0, 255).to(torch.uint8)

    def restore_floats(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The pixel levels that were normalised, which an augmentation may have put between whole numbers.

        Args:
            pixel_values: float ``(..., 3, H, W)``; not changed.

        Returns:
            A new float tensor of the same shape, 0..255.
        """
        if self.mean is not None and self.std is not None:
            device = pixel_values.device
            return pixel_values * self.std.to(device) + self.mean.to(device)
        return pixel_values / self.rescale_factor if self.rescale_factor is not None else pixel_values.clone()


class Preprocessor:
    """An image processor as evaluation and training need it.

    Args:
        processor: A ready image processor. Those backed by torchvision (every ``*Fast`` one on transformers 4, the
            default on 5) take the short way; any other works, and is called for every image.

    Attributes:
        target_size: ``(height, width)`` of what the processor returns.
        normalizer: Turns uint8 results into the processor's floats.
        train_filter: Interpolation for random crops: bicubic if the processor's is bicubic or Lanczos, else bilinear.
        exact: Whether `resize` replaces the processor (the verification succeeded).

    Raises:
        ModelError: The processor's results cannot be stacked into a batch.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.normalizer = Normalizer.from_processor(processor)
        resample = getattr(processor, "resample", None)
        if hasattr(processor, "data_config"):
            resample = processor.data_config.get("interpolation")
        self.train_filter = _TRAIN_FILTERS.get(resample, InterpolationMode.BILINEAR)
        self._eval_filter = _EVAL_FILTERS.get(resample) if isinstance(resample, int) else None
        self.target_size = self._probe_size()

        random = np.random.default_rng(0)
        probes = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in self._probe_shapes()]
        self._uint8 = self._gives_uint8(probes[0])
        self._finish_options: dict[str, bool] | None = None
        # ConvNeXt's processor rounds the half pixel of an odd margin to even on transformers 4 (torchvision's rule),
        # down on 5 (its own).
        self.exact = False
        for self._crop_after_resize in (_center_crop, tv.center_crop):
            self.exact = self._uint8 and all(self._equals_processor(probe) for probe in probes)
            if self.exact:
                break
        if not self.exact:
            self._finish_options = self._find_finish_options(probes[-1])

    def resize(self, pixels: torch.Tensor) -> torch.Tensor:
        """The processor's resizing and cropping; valid where `exact`.

        Args:
            pixels: uint8 ``(B, C, H, W)``, any strides.

        Returns:
            uint8 ``(B, C, *target_size)``.
        """
        processor = self.processor
        if processor.do_resize:
            pixels = tv.resize(
                pixels, self._resized_size(pixels.shape[-2:]), interpolation=self._eval_filter, antialias=True
            )
            edge = self._find_cropped_edge()
            if edge is not None:
                pixels = self._crop_after_resize(pixels, [edge, edge])
        if getattr(processor, "do_center_crop", False):
            pixels = _center_crop(pixels, [processor.crop_size["height"], processor.crop_size["width"]])
        return pixels

    def preprocess(self, image: Image.Image | NDArray[np.uint8]) -> torch.Tensor:
        """Do to one image what the processor does.

        Args:
            image: RGB image, or uint8 ``(H, W, 3 or 4)`` of which the first three channels count.

        Returns:
            ``(3, *target_size)``: uint8 (then `normalizer` gives the processor's floats), or float32 for processors
            that cannot stop before normalising.
        """
        if self.exact:
            return self.resize(torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None])[0, :3]
        if not isinstance(image, Image.Image):
            image = Image.fromarray(np.ascontiguousarray(image[..., :3]))
        options = {"do_rescale": False, "do_normalize": False} if self._uint8 else {}
        return self.processor(images=[image], return_tensors="pt", **options)["pixel_values"][0]

    def finish(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Do to a batch of training crops what the processor does beside resizing and normalising, e.g. swap channels.

        Args:
            pixel_values: uint8 ``(B, 3, *target_size)``.

        Returns:
            The same where there is nothing else to do; else what the processor makes of it, uint8 or float32.
        """
        if self._finish_options is None:
            return pixel_values
        return self.processor(images=list(pixel_values), return_tensors="pt", **self._finish_options)["pixel_values"]

    def _probe_size(self) -> tuple[int, int]:
        shapes = set()
        for size in ((40, 56), (56, 40)):
            result = self.processor(images=Image.new("RGB", size), return_tensors="pt")["pixel_values"]
            shapes.add(tuple(result.shape[1:]))
        if len(shapes) != 1 or len(next(iter(shapes))) != 3:
            raise ModelError(
                f"{type(self.processor).__name__} gives images of the shapes {sorted(shapes)}",
                "a processor that gives every image the same size (3, height, width)",
                "set --image_size",
            )
        return next(iter(shapes))[1:]

    def _probe_shapes(self) -> list[tuple[int, int]]:
        """Heights and widths that tell preprocessing apart."""
        height, width = self.target_size
        # Smaller and larger than the target, lying and standing, and the target itself.
        shapes = [(height // 2 + 3, width), (height + 31, 2 * width), (2 * height, width + 17), (height, width)]
        if (edge := self._find_cropped_edge()) is not None:
            # Margins of four widths in a row: rounding down and rounding to even differ in one of them.
            resized = min(self._resized_size((edge, edge)))
            shapes = [(resized, resized + more) for more in range(4)] + shapes
        return shapes

    def _gives_uint8(self, probe: NDArray[np.uint8]) -> bool:
        """Whether the processor can stop before normalising, and `normalizer` goes on as it would (to 1e-6)."""
        image = Image.fromarray(probe)
        try:
            result = self.processor(images=[image], do_rescale=False, do_normalize=False, return_tensors="pt")
        except TypeError:  # TimmWrapperImageProcessor takes no options
            return False
        pixels = result["pixel_values"]
        expected = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        return pixels.dtype == torch.uint8 and torch.allclose(self.normalizer(pixels), expected, atol=1e-6)

    def _equals_processor(self, probe: NDArray[np.uint8]) -> bool:
        """Whether `resize` and the normaliser give the processor's floats, to the last bit."""
        image = Image.fromarray(probe)
        expected = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        for layout in (probe, np.dstack([probe, probe[..., :1]])):  # both that the decoders lend
            try:
                ours = self.resize(torch.from_numpy(layout).permute(2, 0, 1)[None])[:, :3]
            except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, NotImplementedError):
                return False  # a processor whose attributes mean something else
            if not torch.equal(self.normalizer(ours), expected):
                return False
        return True

    def _find_finish_options(self, probe: NDArray[np.uint8]) -> dict[str, bool] | None:
        """How to have the processor finish a batch that has its size already; None: nothing is left to do.

        For a processor that takes no options, the random crop gets its mean and standard deviation, nothing else.
        """
        image = Image.fromarray(probe)
        expected = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        pixels = torch.from_numpy(probe).permute(2, 0, 1)[None]
        if torch.allclose(self.normalizer(pixels), expected, atol=1e-5):
            return None
        options = {"do_resize": False, "do_center_crop": False}
        if self._uint8:
            options |= {"do_rescale": False, "do_normalize": False}
        try:
            self.processor(images=list(pixels), return_tensors="pt", **options)
        except TypeError:
            return None
        return options

    def _find_cropped_edge(self) -> int | None:
        """Return the side of the square that ConvNeXt cuts out of a resized image; None where nothing is cut out."""
        if getattr(self.processor, "crop_pct", None) is None:
            return None
        edge = _read_size(self.processor.size, "shortest_edge")
        return edge if edge is not None and edge < 384 else None

    def _resized_size(self, size: Sequence[int]) -> list[int]:
        """ConvNeXt's crop_pct: below 384 px resize to size / crop_pct and crop, from 384 px on warp."""
        wanted = self.processor.size
        edge, crop_pct = _read_size(wanted, "shortest_edge"), getattr(self.processor, "crop_pct", None)
        if edge is None:
            return [wanted["height"], wanted["width"]]
        if crop_pct is not None:
            if edge >= 384:
                return [edge, edge]
            edge = int(edge / crop_pct)
        height, width = size
        long = int(edge * max(size) / min(size))
        return [edge, long] if height <= width else [long, edge]


def _read_size(size: Any, key: str) -> int | None:
    try:
        return size[key]
    except KeyError:
        return None


def _center_crop(pixels: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Crop, padding with black what is too small, rounding the odd pixel as transformers' processors do."""
    (height, width), (have_height, have_width) = size, pixels.shape[-2:]
    short_y, short_x = max(0, height - have_height), max(0, width - have_width)
    if short_y or short_x:
        pixels = tv.pad(pixels, [short_x // 2, short_y // 2, (short_x + 1) // 2, (short_y + 1) // 2])
        have_height, have_width = pixels.shape[-2:]
    top, left = (have_height - height) // 2, (have_width - width) // 2
    return pixels[..., top : top + height, left : left + width]
