"""Drawing for real: the daemon, each engine and the embedded model, as a host sees them."""

import base64
import io
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

import psutil  # noqa: E402
from PIL import Image  # noqa: E402

from locara_sidecar.engine.images import read_parameters  # noqa: E402
from locara_sidecar.machine.engine_choice import installed  # noqa: E402
from pocket_model.judge import look  # noqa: E402
from support.host import Host, decoded, error_of, until  # noqa: E402

pytestmark = [pytest.mark.timeout(300), pytest.mark.quick_cases("torch")]

PROMPT = "a large red circle in the center of a blue background"
STEPS = 12
"""Enough for a picture; MLX's build for CPUs is slow."""


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in installed()])
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def host(engine, tmp_path_factory):
    """One daemon for the module, so the model stays loaded between the tests."""
    folder = tmp_path_factory.mktemp(engine) / "pictures"
    folder.mkdir()
    host = Host(folder, "--engine", engine)
    host.open("pocket")
    yield host
    host.close()
    host.check()


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_the_picture_shows_what_the_prompt_says(host, engine):
    result = host.call("image.generate", {"prompt": PROMPT, "options": {"seed": 1}}, timeout=200)
    seen = look(pixels(decoded(result["images"][0])))
    assert seen.background == "blue"
    assert (seen.things[0].shape, seen.things[0].colour) == ("circle", "red")
    assert result["model"]["engine"] == engine
    assert result["model"]["digest"].startswith("sha256:")
    assert result["peakMemoryBytes"] > 50e6
    if engine == "mlx":  # its allocator counts only arrays
        assert 20e6 < result["peakAllocatedBytes"] < result["peakMemoryBytes"]
    else:
        assert "peakAllocatedBytes" not in result


def test_the_previews_show_the_predicted_picture_from_early_steps_on(host):
    call = host.begin(PROMPT, seed=1, steps=STEPS, preview={"mode": "linear"})
    previews = [message["preview"] for message in call.messages() if "preview" in message]
    result = call.result(60)
    assert len(previews) == result["parameters"]["options"]["steps"]
    assert {preview["decoder"] for preview in previews} == {"linear"}
    final = pixels(decoded(result["images"][0])).astype(float)
    distance = []
    for preview in previews:
        with Image.open(io.BytesIO(base64.b64decode(preview["data"]))) as image:
            shown = np.asarray(image.convert("RGB").resize((128, 128)), float)
        distance.append(np.abs(shown - final).mean())
    assert distance[-1] < 16
    assert distance[-1] < distance[0]
    # the composition is visible halfway; a noisy latent would be far off
    assert distance[len(distance) // 2] < 32


def test_a_full_preview_of_the_last_step_is_the_picture(host):
    call = host.begin(PROMPT, seed=2, steps=STEPS, preview={"mode": "full", "mimeType": "image/png", "maxBytes": 40960})
    last = [message["preview"] for message in call.messages() if "preview" in message][-1]
    final = pixels(decoded(call.result(60)["images"][0])).astype(float)
    shown = pixels(base64.b64decode(last["data"])).astype(float)
    assert last["decoder"] == "full"
    assert shown.shape == final.shape
    assert np.abs(shown - final).mean() < 4


def test_a_kind_of_preview_that_the_model_has_not_is_told_in_the_result(host):
    call = host.begin(PROMPT, seed=2, steps=3, preview={"mode": "tiny"})
    assert [message for message in call.messages() if "preview" in message] == []
    (warning,) = call.result(60)["warnings"]
    assert warning["kind"] == "PreviewUnavailable"
    assert "preview.mode tiny" in warning["message"]
    assert host.generate(PROMPT, seed=2, steps=3, preview={"mode": "auto"})["warnings"] == []


@pytest.mark.slow
def test_a_fast_picture_shows_what_the_prompt_says_and_its_parameters_make_it_again(host):
    call = host.begin(PROMPT, seed=1, steps=STEPS, speed="fast")
    steps = [message["step"] for message in call.messages() if message["phase"] == "denoising" and message["step"]]
    result = call.result(60)
    assert steps == list(range(1, STEPS + 1))
    options = result["parameters"]["options"]
    assert (options["speed"], result["warnings"]) == ("fast", [])
    data = decoded(result["images"][0])
    assert read_parameters(data)["options"]["speed"] == options["speed"]
    seen = look(pixels(data))
    assert (seen.background, seen.things[0].shape, seen.things[0].colour) == ("blue", "circle", "red")
    again = host.call("image.generate", result["parameters"], timeout=60)
    assert decoded(again["images"][0]) == data
    exact = host.generate(PROMPT, seed=1, steps=STEPS)
    assert decoded(exact["images"][0]) != data


@pytest.mark.slow
def test_a_model_is_drawn_with_at_the_speeds_that_are_listed_and_at_no_others(host):
    listed = {row["speed"]: row["leastSteps"] for row in host.call("models.get", {"model": "pocket"})["speeds"]}
    for speed in ("exact", "balanced", "fast"):
        for steps in {1, listed.get(speed, STEPS) - 1, listed.get(speed, STEPS)} - {0}:
            result = host.generate(PROMPT, steps=steps, speed=speed)
            had = steps >= listed.get(speed, STEPS + 1)
            assert result["parameters"]["options"]["speed"] == (speed if had else "exact"), steps
            assert [warning["kind"] for warning in result["warnings"]] == ["SpeedUnavailable"] * (not had), steps


def test_the_same_request_makes_the_same_file_with_previews_on_off_or_full(host):
    files = {
        decoded(host.generate(PROMPT, seed=3, steps=3, preview={"mode": mode})["images"][0])
        for mode in ("off", "linear", "full", "auto")
    }
    assert len(files) == 1


@pytest.mark.slow
def test_the_resolved_parameters_sent_again_make_the_same_file(host):
    first = host.generate(PROMPT, seed=4, negativePrompt="green", steps=4, guidance=2.5)
    again = host.call("image.generate", first["parameters"], timeout=60)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    inside = read_parameters(decoded(again["images"][0]))
    assert inside["options"]["precision"] == first["parameters"]["options"]["precision"] != "auto"
    assert inside["model"]["digest"] == first["model"]["digest"]


def test_negative_prompt_guidance_and_steps_each_change_the_picture(host):
    asked = {"seed": 4, "steps": 4}
    plain, *others = (
        pixels(decoded(host.generate(PROMPT, **asked | options)["images"][0]))
        for options in ({}, {"negativePrompt": "green"}, {"guidance": 6.0}, {"steps": 5})
    )
    assert all((other != plain).any() for other in others)


def test_image_k_of_a_call_is_the_file_of_its_own_seed(host):
    pair = host.generate(PROMPT, seed=5, count=2, steps=4)["images"]
    assert pair[1]["sha256"] == host.generate(PROMPT, seed=6, steps=4)["images"][0]["sha256"]


def test_words_that_the_model_cannot_read_are_told(host):
    result = host.generate("a red circle " * 40 + "zebra", steps=2)
    (warning,) = [warning for warning in result["warnings"] if warning["kind"] == "PromptTruncated"]
    assert "zebra" in warning["message"]


def test_words_that_the_model_does_not_know_are_told(host):
    (warning,) = host.generate("the jurisprudence of thermodynamics", steps=2)["warnings"]
    assert warning["kind"] == "PromptNotUnderstood"
    assert "'jurisprudence'" in warning["message"]
    assert "a cat" in warning["message"]
    assert host.generate("Two CATS", steps=2)["warnings"] == []


def test_a_cancel_inside_the_loop_leaves_an_engine_that_draws_the_same_as_before(host):
    before = host.generate(PROMPT, seed=7, steps=3)["images"][0]["sha256"]
    call = host.begin(PROMPT, seed=7, steps=200)
    until(call, "denoising", step=2)
    call.cancel()
    assert error_of(call).code == -32800
    assert host.generate(PROMPT, seed=7, steps=3)["images"][0]["sha256"] == before


def test_the_daemon_itself_never_loads_the_engines_libraries(host):
    host.generate(PROMPT, steps=1)
    mapped = [entry.path for entry in psutil.Process(host.process.pid).memory_maps()]
    assert not [path for path in mapped if any(part in path for part in ("/torch/", "/numpy/", "/PIL/", "/mlx/"))]
    assert psutil.Process(host.process.pid).memory_info().rss < 64 << 20


@pytest.mark.slow
def test_a_broken_model_folder_is_told_before_any_work(engine, tmp_path, hosts):
    import json
    import shutil

    root = Path(__file__).parents[2] / "fixtures" / "models"
    shutil.copytree(root, tmp_path / "models")
    entry = json.loads((tmp_path / "models" / "tiny-sd3.json").read_text())
    shard = next((tmp_path / "models" / entry["source"]["path"] / "transformer").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    other = hosts.session("--catalogue", str(tmp_path / "models"), engine=engine, models=("tiny-sd3",))
    error = error_of(other.begin("x", steps=1), 120)
    assert error.kind in ("IntegrityError", "ModelIncomplete")
    assert other.files() == []
