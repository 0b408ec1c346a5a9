"""`MambaXrayImageProcessor`: X-ray images to the tensors that the models take."""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
)
from transformers.utils import TensorType

from ..modeling_mambaxray.hub.repository_code import ProcessorCodeMixin
from .image_reading import load_xray
from .view_groups import group_views


class MambaXrayImagesKwargs(TypedDict, total=False):
    """The options of `MambaXrayImageProcessor`; any other is refused."""

    do_resize: bool | None
    size: dict[str, int] | SizeDict | int | None
    resample: PILImageResampling | int | None
    reducing_gap: float | None
    do_center_crop: bool | None
    crop_size: dict[str, int] | SizeDict | int | None
    crop_positions: Sequence[Sequence[tuple[float, float]] | None] | None
    do_rescale: bool | None
    rescale_factor: float | None
    do_normalize: bool | None
    image_mean: float | list[float] | tuple[float, ...] | None
    image_std: float | list[float] | tuple[float, ...] | None
    do_convert_rgb: bool | None
    strict: bool | None
    allow_blank: bool | None
    return_tensors: str | TensorType | None


class MambaXrayImageProcessor(ProcessorCodeMixin, PilBackend):
    """Turn studies of one or several X-ray views into `pixel_values` and `view_mask`.

    Each view is read by `load_xray` (8- or 16-bit images, DICOM, arrays …), resized to `size` without keeping its
    aspect ratio (bicubic, antialiased), brought to [0, 1] and normalized with ImageNet's mean and standard
    deviation, as the released code of MambaXray-VL and R2GenGPT does. It needs Pillow and numpy only.

    Args:
        do_resize, size, resample: the size `{"height": 224, "width": 224}` and the filter; or `{"shortest_edge": 256}`,
            which keeps the aspect ratio and needs `do_center_crop`.
        reducing_gap: resize in two steps as in Pillow, first coarsely to no less than this many times `size`, where
            JPEGs are decoded at 1/2, 1/4 or 1/8 of their size already; 1 or more, None (the default) for one step. At
            3 large images are read several times faster and values differ by 0.2 of 255 grey levels on average
            (`docs/input.md`); train and generate with the same.
        do_center_crop, crop_size: cut `crop_size` out of the middle of the resized image.
        crop_positions: of a call, for each study the places of its views' cuts in place of the middle, or None: which
            share of the room is above and to the left of the cut, each from 0 to 1, `(0.5, 0.5)` for the middle.
        do_rescale, rescale_factor: multiply 8-bit values by 1/255.
        do_normalize, image_mean, image_std: per channel.
        do_convert_rgb: repeat grey images to three channels. Without it grey ones keep one channel.
        strict: refuse DICOMs about which there are doubts (`docs/input.md`) that otherwise are logged.
        allow_blank: take images in which there is nothing to see, for tests; they are refused otherwise.

    Call it with `images` as

    - one image: one study with one view;
    - a list of images (or an array or tensor (batch, 3, H, W)): one study per image;
    - a list of lists of images (or an array (batch, views, 3, H, W)): the views of each study; studies may differ
      in their number of views, missing ones are zero with `view_mask` False.

    Returns:
        `BatchFeature` with `pixel_values` (batch, views, 3, height, width) float32 and `view_mask` (batch, views)
        bool.

    Raises:
        ImageReadError: an image that can't be read; names the file and the reason.
        TypeError: an option that this class does not have.
        ValueError: no images at all, a study without views, a `size` or `crop_size` that does not say what size the
            result has, a cut that is larger than the image or outside of it, a `reducing_gap` below 1, or images of
            different sizes with `do_resize=False`.
    """

    auto_class_name = "AutoImageProcessor"
    valid_kwargs = MambaXrayImagesKwargs
    model_input_names = ["pixel_values", "view_mask"]
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BICUBIC
    reducing_gap = None
    do_center_crop = False
    crop_size = None
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_convert_rgb = True
    strict = False
    allow_blank = False

    def _standardize_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        # `size=192` means a square.
        return super()._standardize_kwargs(**kwargs, default_to_square=True)

    def _preprocess_image_like_inputs(self, images: Any, **kwargs: Any) -> BatchFeature:
        _check_sizes(**{name: kwargs[name] for name in ("do_resize", "size", "do_center_crop", "crop_size")})
        if kwargs["reducing_gap"] is not None and kwargs["reducing_gap"] < 1:
            raise ValueError(f"reducing_gap must be 1 or more, or None; it is {kwargs['reducing_gap']}")
        return self._preprocess(group_views(images), **kwargs)

    def _preprocess(
        self,
        images: list[list[Any]],
        do_resize: bool,
        size: SizeDict,
        resample: PILImageResampling,
        reducing_gap: float | None,
        do_center_crop: bool,
        crop_size: SizeDict | None,
        crop_positions: Sequence[Sequence[tuple[float, float]] | None] | None,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        do_convert_rgb: bool,
        strict: bool,
        allow_blank: bool,
        return_tensors: str | TensorType | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        is_coarse = do_resize and reducing_gap is not None
        largest = size.shortest_edge or max(size.height or 0, size.width or 0)
        least_side = math.ceil(reducing_gap * largest) if is_coarse and reducing_gap is not None else None

        def to_array(view: Any, position: tuple[float, float]) -> np.ndarray:
            # One image after the other, so that no batch of full-size images is held in memory.
            picture = load_xray(view, least_side=least_side, strict=strict, allow_blank=allow_blank)
            # Resizing one grey channel and repeating it afterwards equals, and is faster than, the reverse.
            if do_resize:
                picture = picture.resize(_resized(picture.size, size), resample, reducing_gap=reducing_gap)
            if do_center_crop:
                picture = _cut(picture, crop_size, position)
            pixels = np.asarray(picture, dtype=np.float32)
            channels = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
            if do_convert_rgb and len(channels) == 1:
                channels = np.repeat(channels, 3, axis=0)
            if do_rescale:
                channels = channels * np.float32(rescale_factor)
            if do_normalize:
                channels = self.normalize(channels, image_mean, image_std).astype(np.float32)
            return channels

        positions = _positions(images, crop_positions)
        arrays = [
            [to_array(*each) for each in zip(*study, strict=True)] for study in zip(images, positions, strict=True)
        ]
        shapes = {array.shape for study in arrays for array in study}
        if len(shapes) > 1:
            raise ValueError(
                f"images of different shapes {sorted(shapes)} in one batch: use do_resize and do_convert_rgb"
            )
        most_views = max(len(study) for study in arrays)
        pixel_values = np.zeros((len(arrays), most_views, *shapes.pop()), dtype=np.float32)
        view_mask = np.zeros((len(arrays), most_views), dtype=bool)
        for row, study in enumerate(arrays):
            pixel_values[row, : len(study)] = study
            view_mask[row, : len(study)] = True
        return BatchFeature({"pixel_values": pixel_values, "view_mask": view_mask}, tensor_type=return_tensors)


_MIDDLE = (0.5, 0.5)


def _check_sizes(do_resize: bool, size: SizeDict, do_center_crop: bool, crop_size: SizeDict | None) -> None:
    """Refuses settings that do not say which size all images get."""
    if do_center_crop and not (crop_size is not None and crop_size.height and crop_size.width):
        raise ValueError(f"do_center_crop needs crop_size with height and width in pixels; it is {crop_size}")
    is_exact = bool(size.height and size.width)
    if do_resize and not (is_exact or (do_center_crop and size.shortest_edge)):
        raise ValueError(
            "size must give height and width in pixels, or shortest_edge with do_center_crop and crop_size; it is "
            f"{dict(size)}"
        )


def _resized(picture: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """Width and height of an image, given as such, after resizing."""
    if size.height and size.width:
        return size.width, size.height
    shorter = min(picture)
    width, height = (max(size.shortest_edge, side * size.shortest_edge // shorter) for side in picture)
    return width, height


def _cut(picture: Image.Image, size: SizeDict, position: tuple[float, float]) -> Image.Image:
    """The part of an image at a position: shares of the room above and to the left of it."""
    room = picture.height - size.height, picture.width - size.width
    if min(room) < 0:
        raise ValueError(
            f"an image of {picture.width} x {picture.height} px is too small to cut {size.width} x {size.height} px "
            "out of it: make crop_size smaller or size larger"
        )
    if not all(0 <= share <= 1 for share in position):
        raise ValueError(f"a crop position must be two numbers from 0 to 1, got {position!r}")
    top, left = (math.floor(free * share) for free, share in zip(room, position, strict=True))
    return picture.crop((left, top, left + size.width, top + size.height))


def _positions(images: list[list[Any]], given: Sequence[Any] | None) -> list[list[tuple[float, float]]]:
    """The position of each view's cut, for each study."""
    studies = [None] * len(images) if given is None else list(given)
    counts = [None if study is None else len(study) for study in studies]
    if len(studies) != len(images) or any(c not in (None, len(study)) for c, study in zip(counts, images, strict=True)):
        raise ValueError(
            f"crop_positions are for {counts} views of {len(studies)} studies, the images are "
            f"{[len(study) for study in images]}"
        )
    return [
        [_MIDDLE] * len(study) if positions is None else [tuple(position) for position in positions]
        for study, positions in zip(images, studies, strict=True)
    ]
