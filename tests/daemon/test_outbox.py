"""The queue of what is to be written: order, indexes without gaps, bounds."""

import json
import threading
import time

import pytest

from locara_protocol.image_messages import DiffusionStep, PreviewImage
from locara_sidecar.daemon.wire.outbox import HIGH_WATER_BYTES, MAX_BURST, MAX_PENDING, Channel, Outbox


def step(number, preview=None, image=1):
    message = DiffusionStep(
        job_id="job-1", phase="denoising", image=image, images=1, step=number, steps=99, progress=0.5, elapsed_ms=1
    )
    if preview is None:
        return message
    shown = PreviewImage(mime_type="image/webp", width=1, height=1, data=preview, decoder="linear")
    return DiffusionStep(
        **{name: getattr(message, name) for name in message.__struct_fields__ if name != "preview"}, preview=shown
    )


def taken(outbox):
    outbox.close()
    lines = b""
    while (data := outbox.take(1)) is not None:
        lines += data
    return [json.loads(line) for line in lines.splitlines()]


def test_an_answer_overtakes_the_frames_of_other_calls():
    outbox = Outbox()
    outbox.push(Channel(1, "DiffusionStep"), step(1))
    outbox.answer(b'{"id":5}')
    assert [message.get("id") for message in taken(outbox)] == [5, None]


def test_the_answer_of_a_call_comes_after_its_frames_and_the_end_frame():
    outbox, channel = Outbox(), Channel(7, "DiffusionStep")
    outbox.push(channel, step(1))
    outbox.push(channel, step(2))
    outbox.close_channel(channel, b'{"id":5}')
    messages = taken(outbox)
    assert [message["params"]["index"] for message in messages[:3]] == [0, 1, 2]
    assert messages[2]["params"] == {"channel": 7, "index": 2, "end": True}
    assert messages[3] == {"id": 5}


def test_over_the_bound_the_newest_frame_absorbs_the_next_and_leaves_no_hole():
    outbox, channel = Outbox(), Channel(7, "DiffusionStep")
    for number in range(1, 100):
        outbox.push(channel, step(number))
    outbox.close_channel(channel, None)
    frames = [message["params"] for message in taken(outbox)]
    assert [frame["index"] for frame in frames] == list(range(MAX_PENDING + 1))
    assert frames[MAX_PENDING - 1]["message"]["step"] == 99


@pytest.mark.parametrize(("sent", "left"), [(MAX_PENDING * 4, MAX_PENDING * 4), (MAX_BURST * 2, MAX_BURST)])
def test_a_burst_loses_nothing_while_the_writer_asks_for_more(sent, left):
    outbox, channel, written = Outbox(), Channel(7, "DiffusionStep"), []
    writer = threading.Thread(target=lambda: written.append(outbox.take(1 << 30)))
    writer.start()
    while not outbox._asking:
        time.sleep(0.001)
    with outbox._condition:  # the writer is not given the processor
        for number in range(1, sent + 1):
            outbox.push(channel, step(number))
    writer.join()
    frames = [json.loads(line)["params"] for line in written[0].splitlines()]
    assert len(frames) == left
    assert frames[-1]["message"]["step"] == sent


def test_no_burst_of_previews_is_large():
    """A host that reads 64 KiB every 97 ms was shown 256 frames, the first of them 12 s old."""
    outbox, channel = Outbox(lambda: 0.0), Channel(7, "DiffusionStep")
    outbox.push(channel, step(0))
    outbox.take(1)
    for number in range(1, 100):
        outbox.push(channel, step(number, "x" * 40_000))
    assert sum(len(message.preview.data) for message in channel.pending) < (1 << 20) + 40_000
    assert channel.pending[-1].step == 99


def test_a_host_that_has_not_taken_the_last_lines_for_a_while_is_slow():
    now = 0.0
    outbox, channel = Outbox(lambda: now), Channel(7, "DiffusionStep")
    outbox.push(channel, step(1))
    outbox.take(1)
    for number in range(2, 2 + MAX_PENDING * 2):
        outbox.push(channel, step(number))  # within the same moment
    assert len(channel.pending) == MAX_PENDING * 2
    now = 1.0
    outbox.push(channel, step(99))
    assert len(channel.pending) == MAX_PENDING * 2
    assert channel.pending[-1].step == 99


def test_an_absorbed_preview_stays_when_the_later_frame_of_the_same_image_has_none():
    outbox, channel = Outbox(), Channel(7, "DiffusionStep")
    for number in range(1, MAX_PENDING):
        outbox.push(channel, step(number))
    outbox.push(channel, step(50, preview="AAAA"))
    outbox.push(channel, step(51))
    outbox.push(channel, step(52, image=2))
    last = taken(outbox)[-1]["params"]["message"]
    assert (last["step"], last["image"]) == (52, 2)
    assert "preview" not in last

    outbox, channel = Outbox(), Channel(7, "DiffusionStep")
    for number in range(1, MAX_PENDING):
        outbox.push(channel, step(number))
    outbox.push(channel, step(50, preview="AAAA"))
    outbox.push(channel, step(51))
    last = taken(outbox)[-1]["params"]["message"]
    assert (last["step"], last["preview"]["data"]) == (51, "AAAA")


def test_channels_take_turns_so_that_a_busy_one_starves_nobody():
    outbox, busy, other = Outbox(), Channel(1, "DiffusionStep"), Channel(2, "DiffusionStep")
    for number in range(1, 5):
        outbox.push(busy, step(number))
    outbox.push(other, step(1))
    assert [message["params"]["channel"] for message in taken(outbox)] == [1, 2, 1, 1, 1]


def test_the_backlog_is_the_bytes_of_the_answers_that_nobody_has_taken():
    outbox, channel = Outbox(), Channel(7, "DiffusionStep")
    outbox.answer(b"x" * 100)
    outbox.push(channel, step(1))
    outbox.close_channel(channel, b'"%s"' % (b"y" * 48))
    assert outbox.backlog() == 150
    assert outbox.take(1) == b"x" * 100 + b"\n"
    assert outbox.backlog() == 50
    taken(outbox)
    assert outbox.backlog() == 0


def test_a_bounded_amount_is_taken_at_a_time():
    outbox = Outbox()
    for _ in range(10):
        outbox.answer(b"x" * 100)
    assert len(outbox.take(250)) == 303


def test_whoever_found_it_full_is_told_once_when_there_is_room_again():
    outbox, told = Outbox(), []
    assert not outbox.is_full(lambda: told.append("never"))
    for _ in range(5):
        outbox.answer(b'"%s"' % (b"x" * (HIGH_WATER_BYTES // 4 - 2)))
    assert outbox.is_full(lambda: told.append("room"))
    outbox.take(1)
    assert told == ["room"]
    assert not outbox.is_full(lambda: told.append("never"))
    taken(outbox)
    assert told == ["room"]
    assert outbox.taken == 5 * (HIGH_WATER_BYTES // 4 + 1)
