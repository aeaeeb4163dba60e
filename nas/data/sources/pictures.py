"""One image file: what its header says, and its pixels."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from nas.data.preprocessing import Preprocessing
from recipes import InputError, first_line

Array = np.ndarray[Any, np.dtype[Any]]

ALWAYS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".pnm", ".npy",
)  # fmt: skip
LARGEST_IMAGE = 80_000_000  # pixels of an image: above, a small file can fill the memory
WHITE = 65535.0  # of 16 bits, where nothing else is known
_OTHER_BYTE = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}
_AMONG = "among pictures of 8 bits have no defined range: convert, or train with `pixel_range=LOW:HIGH`"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow converts to grey


def _sometimes() -> dict[str, tuple[bool, str]]:
    """Endings that can be read where something is there: whether it is, and what to do where it is not."""
    heif = importlib.util.find_spec("pillow_heif") is not None
    if heif:
        import pillow_heif

        pillow_heif.register_heif_opener()
    newer = "install a Pillow that reads them, or convert them to PNG"
    jpeg2000 = (bool(features.check("jpg_2000")), newer)
    avif = (bool("avif" in features.modules and features.check("avif")), newer)
    return {
        ".jp2": jpeg2000, ".j2k": jpeg2000, ".jpx": jpeg2000, ".avif": avif,
        ".heic": (heif, "pip install pillow-heif, or convert them to JPEG"),
        ".heif": (heif, "pip install pillow-heif, or convert them to JPEG"),
    }  # fmt: skip


_SOMETIMES = _sometimes()
ENDINGS = ALWAYS + tuple(ending for ending, (there, _) in _SOMETIMES.items() if there)
NOT_HERE = {ending: advice for ending, (there, advice) in _SOMETIMES.items() if not there}
"""Endings of images that cannot be read on this machine, and what to do about it."""
# Others could start a program: EPS.
FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM"] + [
    name for name, ending in (("JPEG2000", ".jp2"), ("AVIF", ".avif"), ("HEIF", ".heic")) if ending in ENDINGS
]


class Header(NamedTuple):
    """What a file says of itself.

    Attributes:
        channels: 1: grey; transparency counts as none.
        deep: whether values need more than 8 bits: 16-bit, integer and floating-point pixels.
        lossy: whether only the upper 8 bits of its 16 can be read.
    """

    channels: int
    deep: bool = False
    lossy: bool = False


def header(path: Path) -> Header:
    """What the file says of itself. Raises InputError."""
    try:
        if path.suffix.lower() == ".npy":
            array = _array(path)
            return Header(array.shape[2], array.dtype != np.uint8)
        if (bands := _bands(path)) is not None:
            return Header(bands.shape[2], bands.dtype != np.uint8)
        with Image.open(path, formats=FORMATS) as image:
            return _header(image)
    except Exception as error:  # a decoder may end in any of them on a damaged file
        raise unreadable(path, error) from None


def _header(image: Image.Image) -> Header:
    raw = _raw_mode(image)
    if image.mode.startswith(("I", "F")):
        return Header(1, True)
    channels = 1 if image.mode in ("1", "L", "LA", "La") else 3
    if (raw in _OTHER_BYTE and not image.has_transparency_data) or _netpbm_white(image) > 255:
        return Header(3, True)
    return Header(channels, lossy=";16" in raw and not raw.startswith("BGR;"))


def _netpbm_white(image: Image.Image) -> int:
    """What white is in a PPM; 255 in other files."""
    tile: Any = getattr(image, "tile", None)
    arguments = tile[0][3] if image.format == "PPM" and image.mode == "RGB" and tile else ""
    return int(arguments[1]) if isinstance(arguments, tuple) else 255


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, in the words of Pillow's decoders."""
    tile: Any = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def unreadable(path: Path, error: Exception) -> InputError:
    """The error about a file that is no image."""
    if isinstance(error, InputError):
        return error
    advice = NOT_HERE.get(path.suffix.lower(), "repair or remove it")
    return InputError(f"cannot read the image {path}: {first_line(error)}; {advice}")


def decode(
    path: Path,
    size: int,
    channels: int,
    deep: bool,
    span: tuple[float, float] | None = None,
    floats: bool = False,
) -> tuple[Array, float, float]:
    """The image in a file, upright, on white, as (size, size, channels), and its smallest and largest value
    before it was resized.

    Args:
        deep: the values of the file as float32; otherwise uint8, and of a file that has more bits those
            from `span[0]` to `span[1]`, or to WHITE where that is None, from black to white.
        floats: whether values of floating point are float32 in any case.

    Raises:
        InputError: it is damaged, or has values that no range is known for.
    """
    try:
        values = _values(path)
        if deep or (floats and np.asarray(values).dtype.kind == "f"):
            return _deep(values, size, channels)
        if isinstance(values, Image.Image):
            if channels not in (1, 3):
                raise ValueError(f"{len(values.getbands())} channels, expected {channels}")
            picture = values.convert("L" if channels == 1 else "RGB")
            picture = picture if picture.size == (size, size) else picture.resize((size, size))
            return np.asarray(picture).reshape(size, size, channels), 0.0, 255.0
        if values.dtype != np.uint8:
            values = _eight_bits(values, span)
        found, low, high = _deep(values, size, channels)
        return found.round().astype(np.uint8), low, high
    except Exception as error:  # a decoder may end in any of them on a damaged file
        raise unreadable(path, error) from None


def prepared(path: Path, wanted: Preprocessing) -> Array:
    """The image in a file as those that a network was trained on: (C, H, W), uint8, or float32 in [0, 1].

    Raises:
        InputError: it cannot be read, or the network was trained on what no file holds.
    """
    rows, columns = wanted.image_size
    if rows != columns:
        raise InputError(
            f"the network was trained on images of {rows} x {columns} pixels, which were no files: give "
            "tensors to the network that `nas.load` returns"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file: give picture files or folders")  # a pipe would wait for ever
    low, high = wanted.range
    if wanted.is_deep and high > 255 and not header(path).deep:
        raise InputError(
            f"the picture {path} has 8 bits, and the network was trained on pictures of more, with values "
            f"from {low:g} to {high:g}: give one of that kind"
        )
    numbers = wanted.deep is None and wanted.range == (0.0, 1.0)  # it was trained on arrays of floats
    pixels, low, high = decode(path, rows, wanted.in_chans, wanted.is_deep, wanted.reduced, numbers)
    deep = pixels.dtype != np.uint8
    if numbers and deep and not (low >= 0 and high <= 1):
        raise InputError(
            f"the picture {path} has values from {low:g} to {high:g}, and the network was trained on values "
            "from 0 to 1: rescale it"
        )
    if numbers or deep:
        pixels = scaled(pixels, wanted.range if deep else (0.0, 255.0))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def scaled(values: Array, scale: tuple[float, float]) -> Array:
    """Values as float32 in [0, 1], of which `scale` become 0 and 1."""
    low, high = scale
    found: Array = ((values - np.float32(low)) / np.float32(high - low)).clip(0, 1)
    return found


def _values(path: Path) -> Image.Image | Array:
    """An 8-bit image, L or RGB, or an array (H, W, C) of what else there is."""
    if path.suffix.lower() == ".npy":
        return _array(path)
    if (bands := _bands(path)) is not None:
        return bands
    with Image.open(path, formats=FORMATS) as opened:
        if math.prod(opened.size) > LARGEST_IMAGE:
            raise ValueError(f"{opened.width} x {opened.height} pixels, expected at most {LARGEST_IMAGE}")
        known = _header(opened)
        if known.deep and known.channels == 3:
            if opened.format == "PPM":
                return _netpbm_colours(path, opened)
            return _sixteen_bit_colours(path, opened)
        image = _upright(opened)
        if known.deep:
            return np.asarray(image)[:, :, None]
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "L" else image.convert("L" if known.channels == 1 else "RGB")


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, or as it is where that is broken. Raises what its pixels raise."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever a decoder makes of notes that are none
        return image


def _sixteen_bit_colours(path: Path, opened: Image.Image) -> Array:
    """(H, W, 3) uint16. Pillow keeps one byte of two: the upper, or with the other byte order the lower."""
    upper = np.asarray(_upright(opened)).astype(np.uint16)
    with Image.open(path, formats=FORMATS) as again:
        tiles: Any = again.tile
        again.tile = [tile._replace(args=_swapped(tile.args)) for tile in tiles]
        lower = np.asarray(_upright(again))
    both: Array = upper << 8 | lower
    return both


def _netpbm_colours(path: Path, opened: Image.Image) -> Array:
    """(H, W, 3) uint16 of a PPM, with white at WHITE, as Pillow has it in a PGM."""
    tiles: Any = getattr(opened, "tile", None)
    codec, _, offset, (_, white) = tiles[0][:4]
    shape = (opened.height, opened.width, 3)
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read()
    if codec == "ppm_plain":
        values = np.array(content.split()[: math.prod(shape)], np.int64)
    else:
        values = np.frombuffer(content, ">u2", math.prod(shape)).astype(np.int64)
    scaled: Array = ((values * int(WHITE) + white // 2) // white).clip(0, int(WHITE)).astype(np.uint16)
    return scaled.reshape(shape)


def _swapped(arguments: Any) -> Any:
    """A decoder's arguments with the other byte order."""
    if isinstance(arguments, tuple):
        return tuple(map(_swapped, arguments))
    return _OTHER_BYTE.get(arguments, arguments) if isinstance(arguments, str) else arguments


def _bands(path: Path) -> Array | None:
    """(H, W, C) of a TIFF of other bands than grey or colours with or without transparency; else None."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with Image.open(path, formats=FORMATS) as image:
            tags: Any = getattr(image, "tag_v2", {})
            extra, samples = tags.get(338, ()), tags.get(277, 1)
            bits = tags.get(258, (8,))
            planes = tags.get(284) == 2 and max(bits if isinstance(bits, tuple) else (bits,)) > 8
            if (samples in (1, 3) and not planes) or (samples in (2, 4) and extra and set(extra) <= {1, 2}):
                return None
            if tags.get(262) == 5:  # CMYK
                return None
    except UnidentifiedImageError:  # what Pillow says of bands that it does not know, too
        with open(path, "rb") as file:
            if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                raise
    if importlib.util.find_spec("tifffile") is None:
        raise ValueError("a TIFF of several bands needs the package tifffile: pip install tifffile")
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        if math.prod(page.shape) > LARGEST_IMAGE:
            raise ValueError(f"{' x '.join(map(str, page.shape))} values, expected at most {LARGEST_IMAGE}")
        return _channels_last(page.asarray(), first=page.axes.startswith("S"))


def _array(path: Path) -> Array:
    """(H, W, C) of an image in a file of NumPy."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError("an archive of arrays, expected one image")
    if array.ndim not in (2, 3) or 0 in array.shape or array.dtype.kind not in "buif":
        raise ValueError(
            f"an array of {array.dtype} and the shape {array.shape}, expected numbers, (H, W) or (H, W, C)"
        )
    if array.size > LARGEST_IMAGE:
        raise ValueError(f"{array.size} values, expected at most {LARGEST_IMAGE}")
    return _channels_last(array)


def _channels_last(array: Array, first: bool | None = None) -> Array:
    """(H, W), (H, W, C) or (C, H, W) as (H, W, C); where one side differs from two equal ones beside each
    other it is the channels, else the smallest."""
    if array.ndim == 2:
        return array[:, :, None]
    if first is None:
        first = channels_first(array.shape)
    return np.moveaxis(array, 0, 2) if first else array


def channels_first(shape: Sequence[int]) -> bool:
    """Whether the first of three sides is the channels and not the last, as it seems."""
    a, b, c = map(int, shape)
    if (a == b) != (b == c):  # a square image
        return b == c
    return not (c < a or (c in (1, 3) and a not in (1, 3)))


def _eight_bits(values: Array, span: tuple[float, float] | None) -> Array:
    """Values of more bits as float32 from 0 to 255."""
    if span is None:
        if values.dtype.kind == "f":
            raise ValueError(f"floating-point pixels {_AMONG}")
        if values.min() < 0 or values.max() > WHITE:
            raise ValueError(f"32-bit pixels {_AMONG}")
    low, high = span or (0.0, WHITE)
    scaled: Array = ((values.astype(np.float32) - low) * (255 / (high - low))).clip(0, 255)
    return scaled


def _deep(image: Image.Image | Array, size: int, channels: int) -> tuple[Array, float, float]:
    """As `decode` returns it, float32 (size, size, channels), with the values of the file."""
    values = np.asarray(image)
    x = values.reshape(*values.shape[:2], -1).astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("pixels that are infinite or not a number")
    low, high = float(x.min()), float(x.max())
    if x.shape[2] != channels:
        if channels == 1 and x.shape[2] == 3:
            x = (x @ LUMA)[:, :, None]
        elif x.shape[2] == 1:
            x = x.repeat(channels, 2)
        else:
            raise ValueError(f"{x.shape[2]} channels, expected {channels}")
    if x.shape[:2] != (size, size):
        planes = [Image.fromarray(np.ascontiguousarray(x[:, :, c])) for c in range(channels)]
        resized = [np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in planes]
        x = np.stack(resized, 2).clip(low, high)  # a cubic runs over at edges
    return x, low, high
