"""Previews: within their bytes, within their share of the time, and in order."""

from __future__ import annotations

import io
import threading

import pytest
from PIL import Image

from locara_sidecar.engine import frames
from locara_sidecar.engine.preview import PreviewBudget, PreviewEncoder, PreviewSender

MIMES = ("image/webp", "image/jpeg", "image/png")


def noise(width, height):
    bands = [Image.effect_noise((width, height), 100) for _ in range(3)]
    return Image.merge("RGB", bands)


@pytest.mark.parametrize("mime", MIMES)
@pytest.mark.parametrize("budget", [512, 5500])
@pytest.mark.parametrize("size", [(256, 256), (40, 256), (640, 480), (16, 16), (1, 300)])
def test_a_preview_always_fits_and_tells_its_true_size(mime, budget, size):
    encoder = PreviewEncoder(mime, budget)
    for picture in (noise(*size), Image.new("RGB", size, "red"), noise(*size)):
        preview = encoder.encode(picture, "linear")
        assert preview is not None
        assert len(preview.data) <= budget
        with Image.open(io.BytesIO(preview.data)) as image:
            assert image.get_format_mimetype() == mime == preview.mime_type
            assert image.size == (preview.width, preview.height)
        assert max(preview.width, preview.height) >= min(16, max(size))


def test_a_picture_within_the_budget_keeps_its_size():
    preview = PreviewEncoder("image/webp", 8192).encode(Image.linear_gradient("L").convert("RGB"), "tiny")
    assert (preview.width, preview.height, preview.decoder) == (256, 256, "tiny")


def test_the_budget_keeps_previews_within_three_per_cent():
    budget = PreviewBudget()
    assert budget.allows()
    budget.spent(0.010)
    shown = 0
    for _ in range(1000):
        budget.sampled(0.1)
        if budget.allows():
            budget.spent(0.010)
            shown += 1
    assert 0.010 * (shown + 1) <= 0.03 * 100
    assert shown >= 290


def sender(sent, **gate):
    preview = frames.PreviewSpec(mode="linear", every_steps=1, max_side=64, max_bytes=4096, mime_type="image/webp")
    return PreviewSender(sent.append if not gate else gate["send"], preview)


def step(number):
    return frames.Step(job="j", image=1, step=number, steps=9)


PICTURE = (Image.new("RGB", (32, 32)), "linear")


def test_while_the_encoder_is_behind_only_the_latest_previews_are_made():
    sent, entered, release = [], threading.Event(), threading.Event()

    def send(frame):
        sent.append(frame)
        entered.set()
        release.wait(5)

    out = sender(sent, send=send)
    out.put(step(1), PICTURE)
    entered.wait(5)
    for number in range(2, 10):
        out.put(step(number), PICTURE)
    phase = frames.PhaseStarted(job="j", phase="decoding", image=1)
    out.put(phase)
    release.set()
    out.finish()
    assert [frame.step for frame in sent[:-1]] == list(range(1, 10))
    assert [frame.step for frame in sent[:-1] if frame.preview] == [1, 8, 9]
    assert sent[-1] == phase


def test_a_cancelled_job_makes_no_more_previews_but_sends_its_steps():
    sent, entered, release = [], threading.Event(), threading.Event()

    def send(frame):
        sent.append(frame)
        entered.set()
        release.wait(5)

    out = sender(sent, send=send)
    out.put(step(1), PICTURE)
    entered.wait(5)
    out.put(step(2), PICTURE)
    out._encoding = False  # as finish() does; the sending thread must not get ahead of it here
    release.set()
    out.finish(encode=False)
    assert [(frame.step, frame.preview is not None) for frame in sent] == [(1, True), (2, False)]


def test_a_preview_that_cannot_be_encoded_leaves_its_step_without():
    sent = []
    out = sender(sent)
    out.put(step(1), (None, "linear"))
    out.finish()
    assert sent == [step(1)]
    assert out.failed
