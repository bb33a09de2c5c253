"""An edit's files are sent in pieces and arrive whole, with the job that they belong to."""

import os

import msgspec
import pytest

from locara_sidecar.ipc import frames, framing


def edit(spec, image, mask=None, job="job-1"):
    return frames.Generate(spec=spec(job=job, edit=frames.EditSpec(images=[image], mask=mask, strength=0.5)))


def through(command, pieces):
    """Send a command through both sides; return the job that arrives."""
    reader = framing.FrameReader()
    sizes = []
    for part in framing.in_pieces(command):
        data = framing.encode(part)
        sizes.append(len(data))
        for body in reader.feed(data):
            arrived = framing.decode_command(body)
            if isinstance(arrived, frames.Piece):
                pieces.add(arrived)
            else:
                return pieces.whole(arrived), sizes
    raise AssertionError("no job arrived")


@pytest.mark.parametrize("sizes", [(1, None), (5, 0), (1 << 20, 3), ((1 << 20) + 1, 5_000_000), (3_000_000, 1 << 21)])
def test_files_of_any_size_arrive_as_they_were_and_no_frame_is_large(spec, sizes):
    image, mask = (None if size is None else os.urandom(size) for size in sizes)
    command = edit(spec, image, mask)
    job, frame_sizes = through(command, framing.Pieces())
    assert job == command.spec
    assert max(frame_sizes) < framing.PIECE_BYTES + 4096


def test_several_images_arrive_whole_and_in_order_the_empty_one_too(spec):
    images = [os.urandom(size) for size in (3, (1 << 20) + 5, 0, 2 << 20, 1)]
    given = frames.EditSpec(images=images, mask=b"mask", listed=True)
    command = frames.Generate(spec=spec(edit=given))
    job, frame_sizes = through(command, framing.Pieces())
    assert job == command.spec
    assert max(frame_sizes) < framing.PIECE_BYTES + 4096


def test_a_job_without_files_is_one_frame(spec):
    command = frames.Generate(spec=spec())
    assert list(framing.in_pieces(command)) == [command]
    assert framing.Pieces().whole(command) == command.spec


def test_pieces_of_a_job_that_never_came_do_not_get_into_the_next(spec):
    pieces = framing.Pieces()
    pieces.add(frames.Piece(job="gone", file=0, data=b"half of"))
    pieces.add(frames.Piece(job="gone", file=1, data=b"another"))
    first = edit(spec, b"one", b"mask", job="job-1")
    assert through(first, pieces)[0] == first.spec
    second = edit(spec, b"two", job="job-2")
    assert through(second, pieces)[0] == second.spec
    bare = msgspec.structs.replace(second.spec, edit=frames.EditSpec(images=[b""], mask=b""))
    assert pieces.whole(frames.Generate(spec=bare)).edit == frames.EditSpec(images=[b""], mask=b"")
