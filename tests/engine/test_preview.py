"""Previews keep to their bytes and their share of the time, and come in order."""

from __future__ import annotations

import io
import threading

import pytest
from PIL import Image

from locara_sidecar.engine.previews import preview
from locara_sidecar.engine.previews.preview import BLINK, PreviewBudget, PreviewEncoder, PreviewSender
from locara_sidecar.ipc import frames

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
        made = encoder.encode(picture, "linear")
        assert made is not None
        assert len(made.data) <= budget
        with Image.open(io.BytesIO(made.data)) as image:
            assert image.get_format_mimetype() == mime == made.mime_type
            assert image.size == (made.width, made.height)
        assert max(made.width, made.height) >= min(16, max(size))


def test_a_picture_within_the_budget_keeps_its_size():
    made = PreviewEncoder("image/webp", 8192).encode(Image.linear_gradient("L").convert("RGB"), "tiny")
    assert (made.width, made.height, made.decoder) == (256, 256, "tiny")


def shown_of(steps, step, preview, first=0.0):
    """Return how many previews a job makes, and their cost without the first."""
    budget, shown, spent = PreviewBudget(), 0, 0.0
    for number in range(1, steps + 1):
        budget.sampled(step)
        if number == 1 or budget.allows():
            cost = first or preview if number == 1 else preview
            budget.spent(cost)
            spent += cost if number > 1 else 0.0
            shown += 1
    return shown, spent


def test_previews_of_long_steps_keep_within_three_per_cent():
    shown, spent = shown_of(1000, step=1.0, preview=0.1)
    assert spent <= 0.03 * 1000
    assert shown >= 290


@pytest.mark.parametrize("step", [0.0, 0.001, 0.02, 0.2])
@pytest.mark.parametrize("preview", [0.0001, 0.003, 0.0079])
def test_a_preview_that_nobody_sees_the_cost_of_is_never_left_out(step, preview):
    assert shown_of(20, step, preview)[0] == 20


@pytest.mark.parametrize("step", [0.0, 0.01, 0.1])
def test_dearer_previews_cost_a_step_no_more_on_average_than_nobody_sees(step):
    shown, spent = shown_of(100, step, preview=0.02)
    assert spent <= BLINK * 100
    assert 39 <= shown <= 41


def test_a_dear_first_preview_costs_no_later_one():
    assert shown_of(20, step=0.01, preview=0.005, first=2.0)[0] == 20


def test_one_that_was_disturbed_does_not_stand_for_the_next():
    budget = PreviewBudget()
    costs = [0.5, 0.002, 0.002, 0.012, 0.002]
    for cost in costs:
        budget.sampled(0.01)
        assert budget.allows()
        budget.spent(cost)


@pytest.mark.parametrize("disturbed", [1, 2, 3, 10])
def test_previews_go_on_after_one_that_another_program_interrupted(disturbed):
    budget = PreviewBudget()
    for number in range(1, 41):
        budget.sampled(0.001)
        assert number == 1 or budget.allows()
        budget.spent(0.3 if number == disturbed else 0.001)


def test_previews_that_become_dearer_are_noticed():
    budget, spent = PreviewBudget(), 0.0
    for number in range(1, 201):
        budget.sampled(0.001)
        if budget.allows():
            cost = 0.001 if number <= 10 else 0.1
            budget.spent(cost)
            spent += cost
    assert spent <= BLINK * 200 + 2 * 0.1


def sender(sent, **gate):
    spec = frames.PreviewSpec(mode="linear", every_steps=1, max_side=64, max_bytes=4096, mime_type="image/webp")
    return PreviewSender(sent.append if not gate else gate["send"], spec)


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


def test_steps_that_are_faster_than_the_encoder_wait_for_it_so_that_no_preview_is_left_out(monkeypatch):
    monkeypatch.setattr(preview, "BLINK", 20.0)
    sent = []
    out = sender(sent)
    for number in range(1, 60):
        out.put(step(number), (noise(32, 32), "linear"))
    out.finish()
    assert [frame.step for frame in sent] == list(range(1, 60))
    assert all(frame.preview for frame in sent)


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
    out._encoding = False  # like finish(); the sending thread must not be faster here
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
