"""Picture files of every kind made one kind: upright, sRGB, 8 bit, opaque, first frame.

JPEG, PNG, WebP, AVIF, TIFF, GIF and BMP are Pillow's; HEIC, what phones write, is libheif's (package pi-heif).
"""

import io
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

Size = tuple[int, int]  # width, height in pixels
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture

# Which suffix belongs to which of Pillow's formats.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
}
EXTENSIONS = set(FORMATS)
_ORIENTATION, _TURNED = 0x0112, {5, 6, 7, 8}  # of EXIF, and its values that exchange width and height


def open_picture(path: Path) -> Image.Image:
    """A picture file's header; pixels are decoded when they are asked for. Close it.

    Raises whatever a broken file makes Pillow's readers trip over; `reason` puts that into words.
    """
    _register_heif()
    return Image.open(path)


def header(image: Image.Image) -> Size:
    """Size of the upright picture, from its header alone.

    Raises ValueError for damaged EXIF data or a damaged colour profile: which side is up or which colours are meant
    would be a guess, and a guess is not trained on.
    """
    exif = image.info.get("exif")
    if exif is not None and _damaged_exif(exif):
        raise ValueError("its EXIF data are damaged, so it is unknown which side is up; save it anew")
    profile = image.info.get("icc_profile")
    if profile:
        try:
            ImageCms.ImageCmsProfile(io.BytesIO(profile))
        except (OSError, ImageCms.PyCMSError) as error:
            raise ValueError("its colour profile is damaged, so its colours are unknown; save it anew") from error
    width, height = image.size
    return (height, width) if _is_turned(image) else (width, height)


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """An opened picture upright, in sRGB, 8 bit RGB, what is transparent laid on `background`."""
    profile = image.info.get("icc_profile")
    upright = _eight_bit(ImageOps.exif_transpose(image))
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = upright.getchannel("A")
    colours = _to_srgb(upright, profile)
    if alpha is None:
        return colours
    ground = Image.new("RGB", colours.size, background)
    ground.paste(colours, mask=alpha)
    return ground


def load_picture(path: Path, size: Size, box: Box, background: str = "white", mirrored: bool = False) -> Image.Image:
    """The part `box` of the upright picture as RGB of exactly `size`, mirrored left to right when asked."""
    with open_picture(path) as image:
        part = to_rgb(image, background).resize(size, Image.Resampling.LANCZOS, box=box)
    return ImageOps.mirror(part) if mirrored else part


def reason(error: Exception, path: Path) -> str:
    """Why a file could not be read, in words that complete "NAME: …"."""
    if isinstance(error, UnidentifiedImageError):  # its own words name a buffer in memory
        return "empty file" if path.stat().st_size == 0 else "not a picture of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "more than 178 million pixels; make it smaller"
    if isinstance(error, MemoryError):
        return "too large for the memory"
    words = f"{error}".split("\n")[0].replace(str(path), path.name)
    return words or type(error).__name__


@lru_cache(maxsize=1)
def _register_heif() -> None:
    import pi_heif

    pi_heif.register_heif_opener()


def _is_turned(image: Image.Image) -> bool:
    """Whether width and height change places. Pillow gives the size of a TIFF as it is shown already.

    Of a PNG it would decode everything to find EXIF data behind the pixels; nobody but a test puts them there.
    """
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return False
    return image.getexif().get(_ORIENTATION) in _TURNED


def _damaged_exif(exif: bytes) -> bool:
    """Whether the first directory of the EXIF data, which holds the orientation, cannot be read whole."""
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "little", b"MM\x00*": "big"}.get(tiff[:4])
    if order is None:
        return True

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], "little" if order == "little" else "big")

    start = number(4, 4)
    return start < 8 or start + 2 > len(tiff) or start + 2 + 12 * number(start, 2) > len(tiff)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bit and of floating point to 8 bit; Pillow alone would clip them at 255: all white."""
    if image.mode.startswith("I"):  # 16 bit, whatever the container
        return image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode == "F":
        largest = float(image.getextrema()[1])  # type: ignore[arg-type]
        scale = 255.0 if largest <= 1 else 1.0 if largest <= 255 else 1 / 257
        return image.point(lambda value: value * scale).convert("L")
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB. Without a profile sRGB is what everybody means."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else None
    space = source.profile.xcolor_space.strip() if source else ""
    if source is None or (space == "RGB" and "sRGB" in (source.profile.profile_description or "")):
        return _plain_rgb(image)
    modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
    if space not in modes or (space in ("CMYK", "Lab") and image.mode != modes[space]):
        return _plain_rgb(image)  # a profile of another kind of picture says nothing about this one
    given = _plain_rgb(image) if space == "RGB" else image if image.mode == modes[space] else image.convert("L")
    converted = ImageCms.profileToProfile(
        given,
        source,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # only None when converted in place
    return converted


def _plain_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
        assert converted is not None
        return converted
    return image.convert("RGB")
