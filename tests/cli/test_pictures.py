"""A picture in a terminal's own encoding, decoded again as that terminal would."""

import random
import re
import shutil
import subprocess

import pytest
from PIL import Image, ImageChops

from locara_sidecar.cli.output import pictures
from support.played_terminal import iterm2_pictures, kitty_pictures, sixel_pictures

CELL = (8, 16)


def noise(width, height, seed=1):
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(3 * width * height))


def flat(width, height):
    """Four fields of colour, which every way of showing a picture preserves."""
    picture = Image.new("RGB", (width, height), (255, 255, 255))
    picture.paste((200, 30, 10), (0, 0, width // 2, height // 2))
    picture.paste((0, 0, 0), (width // 2, height // 2, width, height))
    picture.paste((10, 80, 220), (0, height // 2, width // 2, height))
    return picture


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (97, 31), (200, 300)])
def test_kitty_and_iterm2_get_the_very_picture_as_a_png(size):
    picture = noise(*size)
    ((members, got),) = kitty_pictures(pictures.kitty(picture, (40, 20), CELL, 77).encode())
    assert got.tobytes() == picture.tobytes()
    asked = {"a": "T", "f": "100", "i": "77", "p": "1", "q": "2", "C": "1", "c": "40", "r": "20"}
    assert {name: members.get(name) for name in asked} == asked
    ((members, got),) = iterm2_pictures(pictures.iterm2(picture, (40, 20), CELL).encode())
    assert got.tobytes() == picture.tobytes()
    assert (members["inline"], members["width"], members["height"]) == ("1", "40", "20")


def test_a_picture_of_more_pixels_than_are_shown_is_sent_smaller():
    picture = flat(1024, 1024)
    ((_, got),) = kitty_pictures(pictures.kitty(picture, (20, 10), CELL, 1).encode())
    assert got.size == (160, 160)
    assert [got.getpixel(place) for place in ((5, 5), (155, 155), (5, 155))] == [
        (200, 30, 10),
        (0, 0, 0),
        (10, 80, 220),
    ]


@pytest.mark.parametrize("box", [(1, 1), (7, 3), (40, 20)])
def test_sixel_shows_every_pixel_in_its_colour(box):
    shown = pictures.sixel(flat(64, 64), box, CELL).encode()
    (got,) = sixel_pictures(shown)
    assert got.width == 8 * box[0]
    assert 16 * box[1] - 6 < got.height <= 16 * box[1]
    wanted = flat(64, 64).resize(got.size)
    if box == (40, 20):
        corners = [(0, 0), (got.width - 1, 0), (0, got.height - 1), (got.width - 1, got.height - 1)]
        for corner in corners:
            assert got.getpixel(corner) == pytest.approx(wanted.getpixel(corner), abs=3)
    difference = ImageChops.difference(got, wanted).convert("L")
    assert sum(difference.tobytes()) / len(difference.tobytes()) < 8


def test_sixel_is_right_row_by_row_and_column_by_column():
    picture = Image.new("RGB", (24, 18))
    for y in range(18):
        for x in range(24):
            picture.putpixel((x, y), (51 * (x % 5), 51 * (y % 6), 0))
    (got,) = sixel_pictures(pictures.sixel(picture, (3, 3), (8, 6)).encode())
    difference = ImageChops.difference(got, picture)
    assert max(high for _, high in difference.getextrema()) <= 2  # a hundredth


def test_sixel_keeps_to_registers_that_every_terminal_has():
    shown = pictures.sixel(noise(128, 128), (40, 20), CELL)
    assert {int(number) for number in re.findall(r"#(\d+)", shown)} <= set(range(256))
    assert len(set(re.findall(r"#(\d+);2", shown))) <= 128
    assert shown.isascii()


@pytest.mark.skipif(shutil.which("sixel2png") is None, reason="libsixel's tools")
def test_libsixel_reads_the_same_as_our_reader(tmp_path):
    shown = pictures.sixel(noise(60, 40), (30, 10), CELL)
    (ours,) = sixel_pictures(shown.encode())
    (tmp_path / "a.six").write_text(shown)
    subprocess.run(["sixel2png", "-i", tmp_path / "a.six", "-o", tmp_path / "a.png"], check=True, timeout=30)
    with Image.open(tmp_path / "a.png") as theirs:
        difference = ImageChops.difference(ours, theirs.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 2  # rounding


@pytest.mark.parametrize("size", [(64, 64), (1024, 256), (256, 1024), (1, 2000), (2000, 1)])
@pytest.mark.parametrize("room", [(64, 32), (10, 30), (1, 1)])
def test_a_picture_fits_its_room_in_its_own_shape(size, room):
    columns, rows = pictures.fitting(Image.new("RGB", size), room, CELL)
    assert 1 <= columns <= room[0]
    assert 1 <= rows <= room[1]
    assert columns == room[0] or rows == room[1]
    if min(columns, rows) > 4:
        assert columns * 8 / (rows * 16) == pytest.approx(size[0] / size[1], rel=0.15)


def test_half_blocks_are_two_pixels_each_in_true_colour_and_in_the_nearest_of_256():
    (first, second) = pictures.blocks(flat(4, 4), (4, 2), true_colour=True)
    assert first.count("▀") == second.count("▀") == 4
    assert first.startswith("\x1b[38;2;200;30;10;48;2;200;30;10m▀")
    assert second.startswith("\x1b[38;2;10;80;220;48;2;10;80;220m▀")
    assert first.endswith("▀\x1b[0m")
    # 10, 80, 220 is nearest to 0, 95, 215 of the cube's levels 0, 95, 135, 175, 215, 255
    assert pictures.blocks(flat(4, 4), (4, 2), true_colour=False)[1].startswith("\x1b[38;5;26;48;5;26m▀")


def test_a_picture_with_an_alpha_channel_or_of_greys_is_shown_too():
    for mode in ("L", "RGBA", "P"):
        picture = flat(32, 32).convert(mode)
        assert sixel_pictures(pictures.sixel(picture, (4, 2), CELL).encode())
        assert kitty_pictures(pictures.kitty(picture, (4, 2), CELL, 1).encode())[0][1].getpixel((0, 0))
