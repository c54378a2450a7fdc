"""Fields about the data, one dataclass per group of ``--help``.

A field's text stands below it; its choices are a ``Literal``; the range of its numbers is the second part of an
``Annotated``. `hf_imgcls.arguments.known` reads all three.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal


@dataclass
class DataGroup:
    """Which examples are used."""

    GROUP = "data"

    dataset_name: str | None = None
    """A dataset on the Hub, a local folder in Hub layout, or 'digits', the built-in sample."""
    dataset_config_name: str | None = None
    """The dataset's configuration (with --dataset_name)."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the dataset (with --dataset_name)."""
    train_dir: str | None = None
    """Folder of training images, one sub-folder per class."""
    validation_dir: str | None = None
    """Folder of validation images, one sub-folder per class."""
    test_dir: str | None = None
    """Folder of test images, one sub-folder per class."""
    train_file: str | None = None
    """CSV, JSON lines or parquet file with file names (parquet: or images) and labels, for training."""
    validation_file: str | None = None
    """The same for validation."""
    test_file: str | None = None
    """The same for testing."""
    image_folder: str | None = None
    """Folder that file names in --train_file and the other files are relative to; if not given, the file's own."""
    image_suffix: str | None = None
    """Suffix for file names in --train_file and the other files that lack it, for example .jpg for a column of ids."""
    train_split_name: str | None = None
    """The dataset's split to train on; found by name if not given."""
    validation_split_name: str | None = None
    """The dataset's split to validate on; if not given: validation, valid, val or dev."""
    test_split_name: str | None = None
    """The dataset's split to test on; if not given: test."""
    image_column_name: str | None = None
    """The image column; inferred from the column types if not given."""
    label_column_name: str | None = None
    """The label column; inferred from the column types if not given. A column of lists (also nested: objects.category)
    makes the task multi-label, as do several columns of 0 and 1 with commas between them: cat,dog."""
    label_separator: str | None = None
    """Separator of an image's labels in a text column, for example ';' in 'cat;dog'."""
    group_column: str | None = None
    """Column that says which images belong together (same patient, place or series): a group is never divided between
    splits that are cut."""
    train_val_split: Annotated[int | float, "[0, inf)"] = 0.15
    """Size of the validation split that is cut from train if there is none: a fraction in (0, 1) or a number of
    examples; 0: none."""
    test_split: Annotated[int | float, "[0, inf)"] = 0.15
    """Size of the test split that is cut from train if there is none: a fraction in (0, 1) or a number of examples; 0:
    none."""
    split_seed: Annotated[int, "[0, inf)"] = 42
    """Seed of these cuts, separate from --seed so that runs with different seeds share a test set."""
    shots_per_class: Annotated[int | None, "[1, inf)"] = None
    """Train on at most this many examples of each class, drawn at random."""
    shots_seed: Annotated[int, "[0, inf)"] = 0
    """Seed of that draw, separate from --split_seed so that all draws share validation and test."""
    max_train_samples: Annotated[int | None, "[1, inf)"] = None
    """Train on at most this many examples; with --streaming only these are downloaded, otherwise the whole split."""
    max_eval_samples: Annotated[int | None, "[1, inf)"] = None
    """Validate on at most this many examples."""
    max_test_samples: Annotated[int | None, "[1, inf)"] = None
    """Test on at most this many examples."""
    scan_images: bool = True
    """Decode every image once before training, so that a corrupt file does not stop the run halfway; the result is
    cached."""
    on_bad_image: Literal["error", "skip"] = "error"
    """What to do about images that cannot be decoded: stop with an error, or leave them out."""
    streaming: bool = False
    """Read the dataset while training instead of downloading it first."""
    shuffle_buffer_size: Annotated[int, "[1, inf)"] = 10_000
    """Size of the shuffle buffer when streaming, in examples."""
    download_attempts: Annotated[int, "[1, inf)"] = 5
    """How often a request is tried when the Hub is busy (429, 5xx) or the connection drops, with growing waits."""
    cache_dir: str | None = None
    """Where downloads are cached (default: the Hugging Face cache)."""
    token: str | bool | None = field(default=None, repr=False, compare=False)
    """Hub token for private data and models; prefer `hf auth login` or HF_TOKEN."""
    trust_remote_code: bool = False
    """Run code that a model or dataset repository contains."""


@dataclass
class UnlabelledGroup:
    """Which images are used where no labels are needed."""

    GROUP = "pretrain"

    unlabelled_dir: str | None = None
    """Folder of images without labels, at any depth."""


@dataclass
class PixelsGroup:
    """How an image file becomes model input."""

    GROUP = "pixels"

    image_size: Annotated[int | None, "[1, inf)"] = None
    """Side of the model's input in pixels; if not given, the image processor's."""
    image_mean: Annotated[list[float] | Literal["dataset"] | None, "[0, 1]"] = None
    """Mean of red, green and blue in [0, 1]; dataset: measured on the training images, usual for training from scratch;
    if not given, the image processor's."""
    image_std: Annotated[list[float] | Literal["dataset"] | None, "(0, inf)"] = None
    """Standard deviation of red, green and blue; dataset: measured on the training images; if not given, the image
    processor's."""
    alpha_background: str | None = None
    """Colour behind transparent pixels: a name or '#rrggbb'; drop: ignore transparency, as pipeline() does. If not
    given, the model's own, which is drop unless it was trained with a colour."""
    intensity_range: list[float] | None = None
    """Values that become black and white in 16-bit, 32-bit and float images; if not given, the model's own, or the
    range of the file's type."""
    cache_decoded_images: Literal["auto", "true", "false"] = "auto"
    """Keep decoded images in memory; auto: if all of them are small."""
    decoder: Literal["auto", "pillow", "simplejpeg"] = "auto"
    """JPEG decoder; both give the same pixels. auto: simplejpeg, which is faster, if it is installed."""
    max_image_pixels: Annotated[int, "[1, inf)"] = 89_478_485
    """Images with more pixels than this are refused."""


@dataclass
class AugmentationGroup:
    """How training images are varied; ``None`` leaves it to the policy ``augmentation``."""

    GROUP = "augmentation"

    augmentation: Literal["none", "light", "medium", "heavy", "views"] = "light"
    """Augmentation policy; the arguments below override parts of it. light: crops and flips; medium: with RandAugment
    and erasing; heavy: stronger, with MixUp and CutMix; views: small crops, colours and blur, for pretraining."""
    random_crop_scale: Annotated[list[float] | None, "(0, 1]"] = None
    """Smallest and largest share of the image's area that a training crop covers (light: 0.35 1)."""
    random_crop_ratio: Annotated[list[float] | None, "(0, inf)"] = None
    """Smallest and largest width / height of a training crop (light: 0.75 1.3333)."""
    horizontal_flip_probability: Annotated[float | None, "[0, 1]"] = None
    """Probability that a training image is mirrored left to right (light: 0.5)."""
    vertical_flip_probability: Annotated[float | None, "[0, 1]"] = None
    """Probability that a training image is mirrored top to bottom."""
    rotation_degrees: Annotated[float | None, "[0, 180]"] = None
    """Largest angle by which a training image is rotated, in both directions."""
    color_jitter: Annotated[list[float] | None, "[0, inf)"] = None
    """Largest change of brightness, contrast and saturation (0.4: by 40 %) and of hue (0.5: any), in this order."""
    auto_augment: Literal["none", "randaugment", "trivialaugment", "autoaugment", "augmix"] | None = None
    """Published set of operations (medium, heavy: randaugment)."""
    randaugment_num_ops: Annotated[int | None, "[1, 14]"] = None
    """RandAugment: operations per image (2)."""
    randaugment_magnitude: Annotated[int | None, "[0, 30]"] = None
    """RandAugment: strength of the operations (medium: 5, heavy: 9)."""
    gaussian_blur_probability: Annotated[float | None, "[0, 1]"] = None
    """Probability that a training image is blurred."""
    gaussian_noise_std: Annotated[float | None, "[0, 1]"] = None
    """Standard deviation of Gaussian noise, where white is 1."""
    random_erasing_probability: Annotated[float | None, "[0, 1]"] = None
    """Probability that a rectangle is erased (medium: 0.1, heavy: 0.25)."""
    mixup_alpha: Annotated[float | None, "[0, inf)"] = None
    """MixUp: blend two images and their labels; 0: never (heavy: 0.2)."""
    cutmix_alpha: Annotated[float | None, "[0, inf)"] = None
    """CutMix: paste a part of one image into another; 0: never (heavy: 1.0). With MixUp too, each batch gets one."""
    augmentation_repeats: Annotated[int | None, "[1, inf)"] = None
    """Copies of an image in a batch, each augmented differently; an epoch then covers fewer images."""
    augmentation_safety: bool = True
    """Switch off flips, rotations and hue changes that a check finds to turn images of one class into another."""
    show_batch: bool = False
    """Draw a training batch as the model sees it: train_batch.png in --output_dir."""
