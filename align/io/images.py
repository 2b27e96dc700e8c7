"""Pictures on their way into a network: read, checked and resized as the network's package does.

A score depends on how a picture is resized. Every resize here is bicubic and antialiased.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, final

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from align.core.attribution import one
from align.core.errors import ContractError, PartError
from align.io.files import replacing
from align.io.paths import files_in
from align.io.text import visible

Geometry: TypeAlias = Literal["shortest side, centre crop", "longest side, black bars", "squash"]
Crop: TypeAlias = Literal["rounded", "floored"]

FRAMES: Final = 12
"""Frames of a film, where nobody asks for another number."""

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Endings of the files that are read as pictures."""

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)

_EIGHT_BITS: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Mean distance from [0, 1] of pictures that only overshoot, as decoders do, stays far below.
_OUTSIDE: Final = 0.1


def preprocess(
    x: Tensor,
    size: int,
    geometry: Geometry,
    match_pil: bool = False,
    *,
    clamp: bool = True,
    crop: Crop = "rounded",
) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as (B, 3, size, size); the graph is kept.

    Args:
        x: the pictures.
        size: side of what the network sees, in pixels.
        geometry: how other shapes than squares are brought to a square.
        match_pil: the levels that PIL makes, on the CPU, with the gradient of plain resizing.
        clamp: bring what bicubic interpolation overshoots back to [0, 1].
        crop: where a centre crop lies if an odd number of pixels goes: `round((H - size) / 2)` as
            in torchvision, or `(H - size) // 2` as in transformers.
    """
    height, width = x.shape[-2:]
    match geometry:
        case "squash":
            return _resized(x, size, size, match_pil, clamp)
        case "shortest side, centre crop":
            short = min(height, width)
            high, wide = size * height // short, size * width // short
            x = _resized(x, high, wide, match_pil, clamp)
            top, left = (
                gap // 2 if crop == "floored" else round(gap / 2)
                for gap in (high - size, wide - size)
            )
            return x[..., top : top + size, left : left + size]
        case "longest side, black bars":
            scale = size / max(height, width)
            high, wide = max(1, round(height * scale)), max(1, round(width * scale))
            x = _resized(x, high, wide, match_pil, clamp)
            top, left = (size - high) // 2, (size - wide) // 2
            return F.pad(x, (left, size - wide - left, top, size - high - top))


def standardised(
    x: Tensor,
    mean: tuple[float, float, float] = CLIP_MEAN,
    std: tuple[float, float, float] = CLIP_STD,
) -> Tensor:
    """(x − mean) / std channel by channel, of pictures (B, 3, H, W); by default those of CLIP."""
    middle, spread = (x.new_tensor(values)[:, None, None] for values in (mean, std))
    return (x - middle) / spread


def checked(data: Tensor, who: str) -> Tensor:
    """The pictures as (B, 3, H, W) in float32 or wider, if they are pictures in [0, 1].

    Grey ones (B, 1, H, W) get three channels. A little outside of [0, 1], as decoders overshoot,
    is let through as it is.

    Raises:
        ContractError: of one line that begins with `who`, says what came instead and what to do.
    """
    if not isinstance(data, Tensor):
        raise ContractError(f"{who}: pictures must be a tensor, got {one(type(data).__name__)}")
    if cure := _shape_cure(data):
        text = "pictures must be (B, 3, H, W) of a floating type in [0, 1]"
        raise ContractError(f"{who}: {text}, got {tuple(data.shape)} {data.dtype}; {cure}")
    seen = data.detach()
    if not torch.isfinite(seen).all():
        bad = int((~torch.isfinite(seen)).flatten(1).any(1).sum())
        raise ContractError(f"{who}: {bad} of {len(data)} pictures have values that are not finite")
    if seen.numel() and (seen - seen.clamp(0, 1)).abs().flatten(1).mean(1).max() > _OUTSIDE:
        low, high = float(seen.min()), float(seen.max())
        cure = "divide by 255" if high > 10 else "map [-1, 1] to it by (x + 1) / 2"
        raise ContractError(
            f"{who}: pictures must be in [0, 1], got {low:.3g} to {high:.3g}; {cure}"
        )
    return data.to(torch.promote_types(data.dtype, torch.float32)).expand(-1, 3, -1, -1)


def pictures_in(folder: str | Path) -> list[Path]:
    """The files in a folder and in those inside it that are read as pictures, by name."""
    return sorted(
        path
        for path, _ in files_in(str(folder)).values()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


@final
@attrs.frozen(eq=False)
class Picture:
    """A picture from a file: for packages that take PIL's, and as (3, H, W) in [0, 1]."""

    pil: Image.Image
    tensor: Tensor


def opened(path: str | Path) -> Picture:
    """Read a picture as `shown`, in colour.

    Raises:
        PartError: there is no such file, or it is not such a picture.
    """
    rgb = decoded(path, f"'{path}'").convert("RGB")
    levels = torch.from_numpy(np.array(rgb))
    return Picture(rgb, levels.permute(2, 0, 1).contiguous().float() / 255)


def batches_of(paths: Iterable[str | Path], most: int) -> Iterator[Tensor]:
    """Pictures in turn, (B, 3, H, W) in [0, 1]: no more than `most` of one size together.

    Raises:
        PartError: as `opened`.
    """
    batch = list[Tensor]()
    for path in paths:
        picture = opened(path).tensor
        if batch and (len(batch) == most or batch[0].shape != picture.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(picture)
    if batch:
        yield torch.stack(batch)


def decoded(file: str | Path | BinaryIO, name: str) -> Image.Image:
    """The picture in a file, as `shown`; the one reader for training, rewards and measurement.

    Args:
        file: its path, or its content.
        name: what messages call it.

    Raises:
        PartError: of one line; there is no such file, or it is not such a picture.
    """
    try:
        if isinstance(file, str | Path) and not Path(file).is_file():
            raise PartError(f"no file {name}, as seen from '{Path.cwd()}'")
        with Image.open(file) as image:
            return shown(image, name)
    except PartError:
        raise
    except UnidentifiedImageError as error:
        raise PartError(f"{name} is not a picture: unknown format") from error
    except Exception as error:  # of any kind: what a broken file raises depends on its format
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PartError(f"{name} is not a picture: {reason}") from error


def shown(image: Image.Image, name: str) -> Image.Image:
    """A picture as viewers show it: turned as its EXIF data say, and transparency laid on white.

    Returns:
        The picture with 8 bits a channel, grey ("L") or in colour ("RGB").

    Raises:
        PartError: it has more than 8 bits a channel, or colours that are not RGB, CMYK or YCbCr.
    """
    if image.mode not in _EIGHT_BITS:
        text = f"{name} does not have 8 bits a channel ({image.mode})"
        raise PartError(f"{text}; save it as an 8-bit PNG")
    image.load()  # some formats know of their transparency only then
    if image.has_transparency_data:
        # By way of RGBA, so that Pillow does not warn of a palette with transparency.
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        flat = Image.alpha_composite(white, coloured).convert("RGB")
    else:
        flat = image.convert("RGB")
    if image.mode in ("1", "L", "LA"):
        flat = flat.convert("L")
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return flat if turn is None else flat.transpose(turn)


def _resized(x: Tensor, height: int, width: int, match_pil: bool, clamp: bool) -> Tensor:
    if match_pil:
        smooth = _interpolated(x.clamp(0, 1), height, width).clamp(0, 1)
        return smooth + (_by_pil(x, height, width) - smooth).detach()
    x = _interpolated(x, height, width)
    return x.clamp(0, 1) if clamp else x


def _interpolated(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bicubic", antialias=True)


def _by_pil(x: Tensor, height: int, width: int) -> Tensor:
    """What PIL makes of 8-bit pictures; it rounds its weights, and one of two passes first."""
    levels = (x.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    to, by = (width, height), Image.Resampling.BICUBIC
    resized = [np.asarray(Image.fromarray(picture).resize(to, by)) for picture in levels]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(x) / 255


def _shape_cure(data: Tensor) -> str | None:
    """What to do about data that have not the outer form of pictures; None if they have it."""
    shape = data.shape
    if data.dim() == 3:
        return "put [None] behind one picture to make it a batch"
    if data.dim() != 4:
        return "give decoded pictures, not latents or vectors"
    if shape[1] not in (1, 3):
        if shape[-1] in (1, 3):
            return "move the channels to the front by x.permute(0, 3, 1, 2)"
        if shape[1] == 4:
            return "drop the alpha channel by x[:, :3], or decode the latents"
        return "decode the latents first"
    if not data.is_floating_point():
        return "convert 8-bit pictures by x.float() / 255"
    return None if min(shape[2:]) > 0 else "the pictures are empty"


def to_bytes(data: Tensor) -> np.ndarray:
    """Pictures (B, C, H, W) in [0, 1] as (B, H, W, 3) uint8."""
    pictures = data.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    return pictures.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def frames(count: int, most: int = FRAMES) -> list[int]:
    """Places of a film's frames among `count` pictures: even, with the first and the last."""
    return sorted({round(n * (count - 1) / (most - 1)) for n in range(most)})


def data_uri(data: bytes, kind: Literal["png", "jpeg"]) -> str:
    """The bytes of a picture's file as a URI that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


_NAMED: Final = 96  # pixels that a picture has at least where there is a caption beneath it
_LINE: Final = 16  # pixels of a caption


def mosaic(pictures: np.ndarray, columns: int = 8, captions: Sequence[str] = ()) -> np.ndarray:
    """Pictures (B, H, W, 3) row by row in one, at most so many in a row, with what they are of."""
    if any(captions):
        zoom = max(1, -(-_NAMED // pictures.shape[2]))
        larger = pictures.repeat(zoom, 1).repeat(zoom, 2)
        named = zip(larger, captions, strict=True)
        pictures = np.stack([_with_caption(picture, caption) for picture, caption in named])
    count, height, width, _ = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = picture
    return sheet


def _with_caption(picture: np.ndarray, caption: str) -> np.ndarray:
    """A picture (H, W, 3) with a line beneath it, cut where it has no room."""
    strip = Image.new("RGB", (picture.shape[1], _LINE), "white")
    font, text = ImageFont.load_default(11), visible(caption)
    while text and font.getlength(text) > picture.shape[1] - 4:
        text = text[:-2] + "…" if len(text) > 2 else ""
    ImageDraw.Draw(strip).text((2, 1), text, fill="black", font=font)
    return np.concatenate((picture, np.asarray(strip)))


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as a PNG."""
    with replacing(path) as file:
        Image.fromarray(picture).save(file, "png")
