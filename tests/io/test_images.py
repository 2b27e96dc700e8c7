"""Pictures on their way into a network."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from align.core.errors import ContractError, PartError
from align.io.images import (
    CLIP_MEAN,
    CLIP_STD,
    checked,
    decoded,
    mosaic,
    opened,
    preprocess,
    standardised,
    to_bytes,
)

BARS, CROP = "longest side, black bars", "shortest side, centre crop"


def picture(height, width, seed=0, noisy=True):
    """A picture (1, 3, H, W) of 8-bit levels: noise, or a few smooth bumps."""
    generator = torch.Generator().manual_seed(seed)
    if noisy:
        x = torch.rand(1, 3, height, width, generator=generator)
    else:
        coarse = torch.rand(1, 3, 5, 5, generator=generator)
        x = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (x * 255).round() / 255


def pil(x):
    return Image.fromarray((x[0] * 255).round().byte().permute(1, 2, 0).numpy())


def levels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(("height", "width", "size"), [(97, 97, 40), (60, 90, 32), (20, 31, 45)])
@pytest.mark.parametrize("noisy", [True, False])
def test_match_pil_is_pil(height, width, size, noisy):
    x = picture(height, width, noisy=noisy)
    for geometry in (CROP, "squash"):
        ours = preprocess(x, size, geometry, match_pil=True) * 255
        if geometry == "squash":
            image = pil(x).resize((size, size), Image.Resampling.BICUBIC)
        else:
            short = min(height, width)
            wide, high = size * width // short, size * height // short
            image = pil(x).resize((wide, high), Image.Resampling.BICUBIC)
            left, top = round((wide - size) / 2), round((high - size) / 2)
            image = image.crop((left, top, left + size, top + size))
        torch.testing.assert_close(ours, levels(image), rtol=0, atol=1e-3)
        plain = preprocess(x, size, geometry) * 255
        assert (plain - levels(image)).abs().mean() < 0.5


def test_an_enlarged_edge_overshoots_unless_it_is_clamped():
    x = torch.zeros(1, 3, 8, 8)
    x[..., 4:] = 1
    assert preprocess(x, 30, "squash", clamp=False).max() > 1.01
    clamped = preprocess(x, 30, "squash")
    assert clamped.min() == 0
    assert clamped.max() == 1


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (10, 20, slice(2, 7), slice(None)),
        (20, 10, slice(None), slice(2, 7)),
        (10, 10, slice(None), slice(None)),
    ],
)
def test_bars_are_black_and_the_middle_is_the_picture(height, width, rows, columns):
    seen = preprocess(torch.ones(1, 3, height, width), 10, BARS, clamp=False)
    expected = torch.zeros(1, 3, 10, 10)
    expected[..., rows, columns] = 1
    torch.testing.assert_close(seen, expected)


def test_bars_on_a_picture_whose_longest_side_fits_already():
    x = picture(6, 11)
    seen = preprocess(x, 11, BARS, clamp=False)
    assert torch.equal(seen[..., 2:8, :], x)
    assert not seen[..., :2, :].any()
    assert not seen[..., 8:, :].any()


def test_a_crop_of_an_odd_rest_is_rounded_or_floored():
    x = picture(10, 13)
    assert torch.equal(preprocess(x, 10, CROP), x[..., 2:12])
    assert torch.equal(preprocess(x, 10, CROP, crop="floored"), x[..., 1:11])


@pytest.mark.parametrize("geometry", [BARS, CROP, "squash"])
def test_the_gradient_is_right_and_survives_rounding(geometry):
    x = (0.2 + 0.6 * picture(9, 12).double()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: preprocess(x, 7, geometry), x)
    (plain,) = torch.autograd.grad(preprocess(x, 7, geometry).sum(), x)
    (rounded,) = torch.autograd.grad(preprocess(x, 7, geometry, match_pil=True).sum(), x)
    torch.testing.assert_close(rounded, plain)
    assert (plain != 0).float().mean() > 0.7


def test_standardised_is_channel_by_channel():
    x = torch.tensor(CLIP_MEAN)[None, :, None, None] + torch.tensor(CLIP_STD)[:, None, None]
    torch.testing.assert_close(standardised(x), torch.ones(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("data", "cure"),
    [
        (torch.zeros(3, 8, 8), r"\[None\]"),
        (torch.zeros(2, 5), "not latents"),
        (torch.zeros(2, 8, 8, 3), "permute"),
        (torch.zeros(2, 4, 8, 8), "alpha"),
        (torch.zeros(2, 16, 8, 8), "decode"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "/ 255"),
        (torch.full((2, 3, 8, 8), 99.0), "divide by 255"),
        (2 * picture(8, 8) - 1, r"\(x \+ 1\) / 2"),
        (torch.full((2, 3, 8, 8), torch.nan), "2 of 2 pictures .* not finite"),
        (torch.zeros(2, 3, 0, 8), "empty"),
        ([1.0], "got a list"),
    ],
)
def test_file_that_is_no_picture_is_refused_with_its_cure(data, cure):
    with pytest.raises(ContractError, match=f"^reward 'x': .*{cure}") as told:
        checked(data, "reward 'x'")
    assert "\n" not in str(told.value)


def test_one_wrong_picture_among_many_is_refused():
    data = picture(8, 8).repeat(50, 1, 1, 1)
    data[7] = 2 * data[7] - 1
    with pytest.raises(ContractError, match=r"in \[0, 1\]"):
        checked(data, "x")


def test_pictures_pass_with_a_graph_grey_ones_in_three_channels():
    x = (1.3 * picture(8, 8) - 0.15).requires_grad_()
    assert torch.equal(checked(x, "x"), x)
    assert checked(x, "x").requires_grad
    assert torch.equal(checked(x[:, :1], "x"), x[:, :1].repeat(1, 3, 1, 1))
    assert checked(x.bfloat16(), "x").dtype == torch.float32
    assert checked(x.double(), "x").dtype == torch.float64


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_files_of_any_8_bit_mode_are_opened(mode, tmp_path):
    image = pil(picture(5, 7, noisy=False)).convert(mode)
    image.save(tmp_path / "x.png")
    found = opened(tmp_path / "x.png")
    assert found.pil.mode == "RGB"
    assert found.tensor.shape == (3, 5, 7)
    assert torch.equal((found.tensor * 255).round()[None], levels(found.pil))
    assert torch.equal(levels(found.pil), levels(image.convert("RGB")))


def on_white(image):
    colour, alpha = np.array(image.convert("RGBA")).astype(float)[..., :3], image.getchannel("A")
    share = np.array(alpha)[..., None] / 255
    return torch.from_numpy(colour * share + 255 * (1 - share)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode, tmp_path):
    image = pil(picture(5, 7)).convert(mode[:-1])
    image.putalpha(pil(picture(5, 7, 1)).convert("L"))
    image.save(tmp_path / "x.png")
    assert (opened(tmp_path / "x.png").tensor * 255 - on_white(image)).abs().max() <= 1


def test_a_palette_with_alpha_is_laid_on_white_without_a_warning(tmp_path):
    image = pil(picture(5, 7)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    with_alpha = image.convert("RGB")
    with_alpha.putalpha(Image.fromarray(np.array(image)))  # entry k has alpha k
    assert (opened(tmp_path / "x.png").tensor * 255 - on_white(with_alpha)).abs().max() <= 1


@pytest.mark.parametrize(("mode", "clear"), [("P", 3), ("L", 3), ("RGB", (3, 3, 3)), ("1", 0)])
def test_one_colour_that_is_transparent_is_white(mode, clear, tmp_path):
    image = Image.new(mode, (4, 2), 1)
    if mode == "P":
        image.putpalette([10 * level for level in range(1, 13)])
    image.putpixel((2, 1), clear)
    image.save(tmp_path / "x.png", transparency=clear)
    assert opened(tmp_path / "x.png").tensor[:, 1, 2].tolist() == [1, 1, 1]


def test_pictures_that_differ_where_nobody_looks_are_alike(tmp_path):
    for name, hidden in (("a", (0, 0, 0, 0)), ("b", (240, 0, 200, 0))):
        image = Image.new("RGBA", (6, 6), hidden)
        image.paste((255, 200, 0, 255), (2, 2, 4, 4))
        image.save(tmp_path / f"{name}.webp", lossless=True, exact=True)
    a, b = (opened(tmp_path / f"{name}.webp").tensor for name in "ab")
    assert torch.equal(a, b)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "mode"), [("jpg", "RGB"), ("png", "L"), ("png", "RGBA")])
def test_a_picture_is_turned_as_its_exif_says(orientation, kind, mode, tmp_path):
    image = pil(picture(5, 7)).convert(mode)
    exif = Image.Exif()
    exif[0x112] = orientation
    image.save(tmp_path / f"x.{kind}", exif=exif)
    image.save(tmp_path / f"plain.{kind}")
    plain = ImageOps.exif_transpose(Image.open(tmp_path / f"x.{kind}")).convert("RGB")
    seen = opened(tmp_path / f"x.{kind}").pil
    assert seen.size == ((5, 7) if orientation > 4 else (7, 5))
    assert torch.equal(levels(seen), levels(plain))
    again = Image.open(tmp_path / f"plain.{kind}").convert("RGB")
    assert torch.equal(levels(seen), levels(again)) == (orientation == 1)


def test_grey_stays_grey(tmp_path):
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path / "x.png")
    assert decoded(tmp_path / "x.png", "x").mode == "L"
    Image.new("LA", (4, 4), (9, 0)).save(tmp_path / "y.png")
    assert decoded(tmp_path / "y.png", "y").mode == "L"


@pytest.mark.parametrize("kind", ["int32.tiff", "float32.tiff", "uint16.png", "uint16.tiff"])
def test_more_than_8_bits_a_channel_is_refused(kind, tmp_path):
    Image.fromarray(np.ones((4, 4), kind.split(".")[0])).save(tmp_path / kind)
    with pytest.raises(PartError, match=r"does not have 8 bits .*; save it as an 8-bit PNG$"):
        opened(tmp_path / kind)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b.png", ""])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(PartError, match=r"^(no file|'x)"):
        opened(name)


def test_a_picture_that_would_fill_the_memory_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(PartError, match=r"x.png' is not a picture: Image size") as caught:
        opened(tmp_path / "x.png")
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PartError, match="no file"):
        opened(tmp_path / "nothing.png")
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(PartError, match="is not a picture"):
        opened(tmp_path / "x.png")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(PartError, match="8 bits a channel"):
        opened(tmp_path / "deep.png")


def test_bytes_of_pictures():
    data = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 0.499 / 255])[None, None, None]
    made = to_bytes(data)
    assert (made.shape, made.dtype) == ((1, 1, 6, 3), np.uint8)
    assert made[0, 0, :, 2].tolist() == [0, 0, 128, 255, 255, 0]
    colours = torch.tensor([0.2, 0.4, 0.6])[None, :, None, None].expand(2, 3, 1, 1)
    assert to_bytes(colours)[1, 0, 0].tolist() == [51, 102, 153]


def test_captions_stand_beneath_their_pictures_at_any_size():
    pictures = np.stack([np.full((5, 4, 3), 10 * n, np.uint8) for n in range(3)])
    names = ("cat", "", "a name that is much too long for it")
    sheet = mosaic(pictures, columns=2, captions=names)
    zoom, line = 24, 16
    assert sheet.shape == (2 * (5 * zoom + line), 2 * 4 * zoom, 3)
    tiles = [sheet[: 5 * zoom + line, :96], sheet[: 5 * zoom + line, 96:]]
    for number, tile in enumerate(tiles):
        assert np.unique(tile[: 5 * zoom]).tolist() == [10 * number]
        assert (tile[5 * zoom :].min() < 100) == (number == 0)
    assert np.array_equal(mosaic(pictures, captions=("", "", "")), mosaic(pictures))


def test_mosaic():
    pictures = np.stack([np.full((2, 3, 3), n, np.uint8) for n in range(1, 6)])
    sheet = mosaic(pictures, columns=2)
    assert sheet.shape == (6, 6, 3)
    assert sheet[::2, ::3, 0].tolist() == [[1, 2], [3, 4], [5, 0]]
