"""image.generate through the real daemon with the fake engine: what a host sees and what is on disk."""

import base64
import hashlib
import io
from pathlib import Path

import pytest
from PIL import Image

from locara_sidecar.engine.images import read_parameters
from locara_sidecar.models import catalogue
from support.host import PROMPT, decoded, error_of, manifest, until

PHASES = ["queued", "loading", "encoding", "denoising", "decoding", "saving"]


def test_a_picture_is_saved_in_the_granted_folder_and_described_in_the_answer(kept):
    host = kept
    result = host.generate(width=128, height=128, steps=4, seed=7)
    (image,) = result["images"]
    data = Path(image["path"]).read_bytes()
    assert Path(image["path"]).parent == host.folder
    assert (image["bytes"], image["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (image["width"], image["height"], image["seed"], image["root"]) == (128, 128, 7, "user-folder")
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("PNG", (128, 128), "RGB")
    assert host.files() == [image["relativePath"]]


def test_the_channel_tells_each_phase_and_each_step_once_with_a_preview(hosts):
    host = hosts.session()
    call = host.begin(steps=6)
    messages = list(call.messages())
    call.result(10)
    seen = list(dict.fromkeys(message["phase"] for message in messages))
    assert seen == PHASES
    steps = [message for message in messages if message["phase"] == "denoising" and message["step"]]
    assert [message["step"] for message in steps] == [1, 2, 3, 4, 5, 6]
    assert all("preview" in message for message in steps)
    preview = steps[0]["preview"]
    with Image.open(io.BytesIO(base64.b64decode(preview["data"]))) as picture:
        assert picture.size == (preview["width"], preview["height"])
        assert Image.MIME[picture.format] == preview["mimeType"]
    assert preview["source"] == "x0"


def test_progress_never_falls_and_every_message_is_small_enough_for_tauris_direct_path(hosts):
    host = hosts.session()
    call = host.begin(steps=9, count=3)
    messages = list(call.messages())
    call.result(10)
    progress = [message["progress"] for message in messages]
    assert progress == sorted(progress)
    assert progress[-1] <= 1
    frames = [line for way, line in host.lines if way == "receive" and b'"DiffusionStep"' in line]
    assert max(len(line) for line in frames) < 8192
    assert {message["image"] for message in messages} == {1, 2, 3}


def test_sending_the_resolved_parameters_again_makes_the_same_file_bytes(kept):
    host = kept
    first = host.generate("a lake — 湖 <&>", negativePrompt="fog", steps=3)
    again = host.call("image.generate", first["parameters"], timeout=20)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    assert again["images"][0]["path"] != first["images"][0]["path"]
    assert again["parameters"] == first["parameters"]


def test_a_seed_that_is_not_given_is_another_one_each_time_and_told(kept):
    host = kept
    results = [host.generate(steps=1) for _ in range(3)]
    seeds = [result["parameters"]["options"]["seed"] for result in results]
    assert len(set(seeds)) == 3
    assert [result["images"][0]["seed"] for result in results] == seeds
    again = host.generate(steps=1, seed=seeds[0])
    assert again["images"][0]["sha256"] == results[0]["images"][0]["sha256"]


def test_image_k_of_a_call_is_the_same_file_as_its_own_seed_alone(kept):
    host = kept
    three = host.generate(count=3, seed=10, steps=2)["images"]
    alone = host.generate(seed=12, steps=2)["images"][0]
    assert [image["seed"] for image in three] == [10, 11, 12]
    assert three[2]["sha256"] == alone["sha256"]
    assert three[1]["sha256"] != alone["sha256"]


def test_previews_do_not_change_a_byte_of_the_picture(kept):
    host = kept
    with_previews = host.begin(seed=5, steps=4)
    assert any("preview" in message for message in with_previews.messages())
    without = host.begin(seed=5, steps=4, preview={"mode": "off"})
    assert not any("preview" in message for message in without.messages())
    assert with_previews.result(10)["images"][0]["sha256"] == without.result(10)["images"][0]["sha256"]


def test_each_format_carries_the_parameters_that_determine_the_picture(kept):
    host = kept
    for mime, kind in (("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")):
        result = host.generate(seed=3, steps=2, output={"mimeType": mime})
        data = decoded(result["images"][0])
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == kind
        found = read_parameters(data)
        assert found["prompt"] == PROMPT
        assert found["options"]["seed"] == 3
        assert found["options"]["count"] == 1
        assert b"trainedAlgorithmicMedia" in data
        for private in ("preview", "output", "channel", "jobId"):
            assert private not in found["options"]
        bare = host.generate(seed=3, steps=2, output={"mimeType": mime, "metadata": "none"})
        assert PROMPT.encode() not in decoded(bare["images"][0])


def test_inline_and_both_put_the_picture_into_the_answer(kept):
    host = kept
    inline = host.generate(seed=1, steps=2, output={"mode": "inline"})["images"][0]
    assert host.files() == []
    assert "path" not in inline
    both = host.generate(seed=1, steps=2, output={"mode": "both"})["images"][0]
    assert decoded(inline) == decoded(both) == Path(both["path"]).read_bytes()


def test_a_name_that_is_taken_is_renamed_refused_or_overwritten_as_asked(kept):
    host = kept
    taken = host.folder / "mine.png"
    taken.write_bytes(b"the user's own")
    renamed = host.generate(steps=1, output={"path": "mine.png"})["images"][0]
    assert renamed["relativePath"] != "mine.png"
    refused = error_of(host.begin(steps=1, output={"path": "mine.png", "onConflict": "error"}))
    assert (refused.kind, refused.data["errno"]) == ("StorageError", "EEXIST")
    assert taken.read_bytes() == b"the user's own"
    host.generate(steps=1, output={"path": "mine.png", "onConflict": "overwrite"})
    assert taken.read_bytes().startswith(b"\x89PNG")


def test_several_pictures_with_a_path_are_numbered_before_the_extension(kept):
    host = kept
    images = host.generate(steps=1, count=2, output={"path": "sub/lake.webp", "mimeType": "image/webp"})["images"]
    assert [image["relativePath"] for image in images] == ["sub/lake-1.webp", "sub/lake-2.webp"]


def test_a_second_call_finds_the_engine_warm(hosts):
    host = hosts.session()
    host.generate(steps=1)
    engine = host.call("ping")["engine"]
    assert (engine["state"], engine["model"]) == ("idle", "pocket")
    assert host.generate(steps=1)["timings"]["loadMs"] == 0
    assert host.call("ping")["engine"]["pid"] == engine["pid"]


def test_calls_wait_their_turn_and_the_queue_is_bounded(hosts):
    host = hosts.session("--queue", "2")
    first = host.begin("fake:slow=50 a lake", steps=20)
    until(first, "denoising")
    waiting = [host.begin(steps=1), host.begin(steps=1)]
    refused = error_of(host.begin(steps=1))
    assert (refused.kind, refused.retryable) == ("QueueFull", True)
    jobs = host.call("jobs.list")["jobs"]
    assert [job["state"] for job in jobs] == ["running", "queued", "queued"]
    assert [(job["requestId"], job["channel"]) for job in jobs] == [(c.id, c.channel) for c in (first, *waiting)]
    assert jobs[0]["last"]["phase"] == "denoising"
    first.cancel()
    for call in waiting:
        assert call.result(20)["images"]


def test_default_deny_names_the_fragment_that_would_grant_the_call(hosts):
    host = hosts.spawn()
    host.initialize()
    error = error_of(host.begin())
    assert error.kind == "CapabilityDenied"
    assert error.data["reason"] == "notDeclared"
    assert error.data["declare"]["capabilities"]["fs"] == {"user-folder": "write"}
    assert error.data["declare"]["modalities"] == ["text-to-image"]


def test_a_declared_folder_without_a_grant_of_the_host_is_denied_for_that_reason(hosts):
    host = hosts.spawn()
    host.initialize(manifest=manifest())
    error = error_of(host.begin())
    assert (error.kind, error.data["reason"]) == ("CapabilityDenied", "noHostGrant")


@pytest.mark.slow
def test_a_write_only_grant_of_another_model_does_not_help(hosts):
    host = hosts.session(models=("sd3.5-large",))
    error = error_of(host.begin(model="pocket"))
    assert (error.kind, error.data["resource"]) == ("CapabilityDenied", "pocket")
    assert host.generate(width=256, height=256, steps=1)["model"]["id"] == "sd3.5-large"


@pytest.mark.slow
def test_guidance_that_does_nothing_is_told_and_the_parameters_say_what_ran(hosts):
    host = hosts.session(models=("sdxl-lightning", "flux.1-schnell", "flux.2-klein-4b", "flux.1-dev", "pocket"))
    for model in ("sdxl-lightning", "flux.1-schnell", "flux.2-klein-4b"):
        result = host.generate(model=model, steps=1, guidance=7.5)
        (warning,) = result["warnings"]
        assert warning["kind"] == "GuidanceIgnored"
        assert model in warning["message"]
        assert "7.5" in warning["message"]
        assert result["parameters"]["options"]["guidance"] == 0.0
        usual = catalogue.load().get(model).defaults.guidance  # klein's is 1, which is none
        for quiet in ({"guidance": 0.0}, {"guidance": usual}, {}):
            result = host.generate(model=model, steps=1, **quiet)
            assert (result["parameters"]["options"]["guidance"], result["warnings"]) == (0.0, [])
    for model in ("flux.1-dev", "pocket"):
        result = host.generate(model=model, steps=1, guidance=7.5)
        assert (result["parameters"]["options"]["guidance"], result["warnings"]) == (7.5, [])


@pytest.mark.slow
def test_a_speed_that_the_model_has_not_is_told_and_the_parameters_say_what_ran(hosts):
    host = hosts.session(models=("sdxl-lightning", "pocket"))
    result = host.generate(model="sdxl-lightning", steps=1, speed="fast")
    assert [warning["kind"] for warning in result["warnings"]] == ["SpeedUnavailable"]
    assert (result["parameters"]["options"]["speed"], result["parameters"]["options"]["tiling"]) == ("exact", "off")
    for row in host.call("models.get", {"model": "pocket"}, timeout=10)["speeds"]:
        result = host.generate(model="pocket", speed=row["speed"], steps=row["leastSteps"])
        assert (result["parameters"]["options"]["speed"], result["warnings"]) == (row["speed"], [])
