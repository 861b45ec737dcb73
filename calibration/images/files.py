"""Read image files: the one reader of the trainer and the edge SDK, through Pillow and only when asked.

What is handed out is the picture that the file stores, as uint8; what would have to be guessed is refused. So that
both sides see the same pixels:

- the kind of file is told by its content and is one of `FORMATS`; nothing else (PostScript, say) is even tried;
- more than 8 bits a channel, floats, signed values, CMYK and other colour spaces are refused, never clipped;
- an alpha channel is dropped where it is opaque everywhere, and refused elsewhere;
- several pages or a moving picture are refused; a photograph's preview behind its end is left alone;
- the orientation of a camera's tag is carried out, so that the picture stands as every viewer shows it;
- size, number of scans and the like are looked at in the header, before anything is unpacked;
- a file that ends early is refused, whatever another library told Pillow; of a JPEG see `jpeg`.

Not looked at: colour profiles and gamma (the numbers are handed out as they stand), and whether a file was ever
compressed with loss.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from rrise.calibration.errors import ImageError
from rrise.calibration.images.jpeg import Jpeg, check_decoded, read_jpeg
from rrise.calibration.requirements import install

FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF")
"""Kinds of files, as Pillow names them."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
"""File names of these kinds, in lower case."""

MAX_PIXELS = 1 << 26
"""67 megapixels, twice 8K: a file of 2 MB can claim more than fits the memory."""

MAX_BYTES = 1 << 28
"""256 MiB: what MAX_PIXELS of three bytes need."""

ImageSource = Union[str, "os.PathLike[str]", bytes]

_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "RGBX")
_ORIENTATION = 0x0112
_TRUNCATED = threading.Lock()


@dataclass(frozen=True)
class ImageInfo:
    """What a header says: size in pixels as the picture stands once turned, and whether it is grey."""

    height: int
    width: int
    grey: bool


def open_image(
    source: ImageSource,
    mode: Optional[str] = None,
    *,
    size: Optional[Tuple[int, int]] = None,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> np.ndarray:
    """One picture as uint8 [H, W, C], channels in the order red, green, blue; the memory may be read-only.

    Args:
        source: path of a file, or its bytes.
        mode: "L" for C = 1 (luma of BT.601 where the file is in colour), "RGB" for C = 3; None: as the file is.
        size: height and width that it must have; another is refused before anything is unpacked.
        max_pixels: more are refused.
        formats: kinds of files that are tried.

    Raises:
        ImageError: unreadable, not whole, of another size, or not to be had as 8 bits without guessing; or Pillow is
            not installed.
    """
    if mode not in (None, "L", "RGB"):
        raise ImageError(f"mode: got {mode!r}, expected 'L', 'RGB' or None")
    name = _name(source)
    data = _bytes(source, name)
    stream = io.BytesIO(data)
    with _named(name), _opened(stream, formats) as image:
        info = _checked(image, stream, max_pixels)
        _check_size((info.height, info.width), size)
        jpeg = read_jpeg(data) if image.format in ("JPEG", "MPO") else None
        array = _pixels(image, mode or ("L" if info.grey else "RGB"), jpeg)
        _check_size((array.shape[0], array.shape[1]), size)
        return array


def image_info(
    source: ImageSource, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS
) -> ImageInfo:
    """Size and kind of a picture from its header alone, with all that can be refused there.

    Raises:
        ImageError: as `open_image`, but for what shows only when it is unpacked.
    """
    name = _name(source)
    with _named(name), _stream(source, name) as stream, _opened(stream, formats) as image:
        return _checked(image, stream, max_pixels)


def _name(source: ImageSource) -> str:
    return "image" if isinstance(source, bytes) else str(source)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which file it was; whatever a decoder raises, on damaged bytes it may be anything, is an `ImageError`."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__
    except Exception as error:
        raise ImageError(f"{name}: cannot be read as an image ({error or type(error).__name__})") from error


@contextmanager
def _stream(source: ImageSource, name: str) -> Iterator[Any]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        # Not to wait for a pipe that is called x.png: what it is shows once it is open.
        descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be opened ({error})") from error
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is no regular file, expected an image")
        if status.st_size > MAX_BYTES:
            raise ImageError(f"got {status.st_size} bytes, expected at most {MAX_BYTES}")
        yield stream


def _bytes(source: ImageSource, name: str) -> bytes:
    if isinstance(source, bytes):
        return source
    with _named(name), _stream(source, name) as stream:
        return bytes(stream.read(MAX_BYTES))


@contextmanager
def _opened(stream: Any, formats: Sequence[str]) -> Iterator[Any]:
    try:
        from PIL import Image, ImageFile
    except ImportError as error:
        raise ImageError(f"Pillow is not installed: {install('pillow')}") from error
    with _whole_files_only(ImageFile), Image.open(stream, formats=list(formats)) as image:
        yield image


@contextmanager
def _whole_files_only(module: Any) -> Iterator[None]:
    """Another library may have told Pillow, for the whole process, to fill up what files lack."""
    if not module.LOAD_TRUNCATED_IMAGES:
        yield
        return
    with _TRUNCATED:
        before, module.LOAD_TRUNCATED_IMAGES = module.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            module.LOAD_TRUNCATED_IMAGES = before


def _check_size(got: Tuple[int, int], size: Optional[Tuple[int, int]]) -> None:
    if size is not None and got != tuple(size):
        raise ImageError(
            f"got {got[1]} x {got[0]} pixels, expected {size[1]} x {size[0]}; bring it to that size"
        )


def _checked(image: Any, stream: Any, max_pixels: int) -> ImageInfo:
    """Everything that the header tells. Raises: ImageError."""
    place = stream.tell()
    try:
        return _header(image, stream, max_pixels)
    finally:
        stream.seek(place)  # some decoders go on from where they stopped


def _header(image: Any, stream: Any, max_pixels: int) -> ImageInfo:
    width, height = image.size
    if width * height > max_pixels or not width * height:
        raise ImageError(f"got {width} x {height} pixels, expected at most {max_pixels}; make it smaller")
    bits = _bits(image, stream)
    if image.mode not in (*_GREY, *_COLOUR) or bits > 8:
        raise ImageError(
            f"got pixels of mode {image.mode} with {bits} bits, expected 8 bits of grey or RGB;"
            " convert it, deciding how its values become 0 to 255"
        )
    _check_samples(image)
    if getattr(image, "n_frames", 1) > 1 and not _is_preview(image):
        raise ImageError(f"got {image.n_frames} pictures in one file, expected one; save each on its own")
    if image.format == "PNG":
        tag = _orientation(_png_exif(stream))  # Pillow would unpack the picture to find it
    else:
        tag = (
            1 if image.format == "TIFF" else _orientation(image.getexif())
        )  # it turns the size of a TIFF itself
    if tag >= 5:
        width, height = height, width
    return ImageInfo(height, width, image.mode in _GREY)


def _bits(image: Any, stream: Any) -> int:
    """Bits of a channel in the file; Pillow drops those beyond 8 of colour pictures without a word."""
    if image.format == "PNG":
        stream.seek(24)
        return int(stream.read(1)[0])
    if image.format == "TIFF":
        return max(map(int, image.tag_v2.get(258, (1,))))
    if image.format == "PPM" and image.mode != "1":
        values = [part for tile in image.tile for part in _flat(tile[3]) if isinstance(part, int)]
        return max([8, *(value.bit_length() for value in values)])
    return {"I": 32, "F": 32}.get(image.mode[:1], 8)


def _flat(arguments: Any) -> Tuple[Any, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _check_samples(image: Any) -> None:
    """A TIFF may hold signed or float values, and channels beside those that are shown."""
    if image.format != "TIFF":
        return
    kinds = {int(kind) for kind in _flat(image.tag_v2.get(339, (1,)))}
    samples, shown = int(image.tag_v2.get(277, 1)), len(image.getbands())
    if kinds != {1} or samples > shown or image.mode == "RGBX":
        raise ImageError(
            f"got {samples} channels of sample format {sorted(kinds)}, expected {shown} of unsigned integers;"
            " save it with the channels that are meant"
        )


def _is_preview(image: Any) -> bool:
    """Whether what follows a photograph belongs to it and is no second view (Multi-Picture Format, type of the first)."""
    entries = getattr(image, "mpinfo", {}).get(0xB002) or [{}]
    kind = entries[0].get("Attribute", {}).get("MPType", "")
    return bool(image.format == "MPO" and kind in ("Baseline MP Primary Image", "Undefined"))


def _png_exif(stream: Any) -> Any:
    """The EXIF data of a PNG, which may stand before its pixels or behind them."""
    from PIL import Image

    exif = Image.Exif()
    stream.seek(8)
    while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            exif.load(stream.read(min(size, 1 << 16)))
            break
        stream.seek(size + 4, io.SEEK_CUR)
    return exif


def _orientation(exif: Any) -> int:
    value = exif.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _pixels(image: Any, mode: str, jpeg: Optional[Jpeg]) -> np.ndarray:
    from PIL import ImageOps

    image.load()
    array = None
    if jpeg is not None:
        if (jpeg.width, jpeg.height) != image.size:
            raise ImageError("its header gives two sizes; save it again")
        array = _channels_last(image)
        check_decoded(jpeg, array)
    if "A" in image.getbands() or "transparency" in image.info:
        lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
        if lowest < 255:
            raise ImageError(
                "is transparent in places, expected an opaque picture; put it on the background that is meant"
            )
        image.info.pop("transparency", None)
    turned = ImageOps.exif_transpose(image) if _orientation(image.getexif()) != 1 else image
    if array is not None and turned is image and turned.mode == mode:
        return array  # every copy of a large picture costs a tenth of its decoding
    return _channels_last(turned if turned.mode == mode else turned.convert(mode))


def _channels_last(image: Any) -> np.ndarray:
    """uint8 [H, W, C] of a picture."""
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array
