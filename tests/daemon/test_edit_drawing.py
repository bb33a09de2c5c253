"""Editing and loading for real: the daemon, each engine and the embedded model, as a host sees them."""

import io
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

from PIL import Image  # noqa: E402

from locara_sidecar.engine.images import read_parameters  # noqa: E402
from locara_sidecar.machine.engine_choice import installed  # noqa: E402
from pocket_model.judge import look  # noqa: E402
from support.host import Host, decoded, error_of, manifest, until  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.quick_cases("mlx")]

RED = "a large red circle in the center of a blue background"
GREEN = "a large green circle in the center of a blue background"
SIDE = 128
KEPT = 12  # pixels at each border that the mask leaves unchanged


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in installed()])
def engine(request):
    return request.param


@pytest.fixture(scope="module")
def host(engine, tmp_path_factory):
    """One daemon for the module, its model loaded, with a picture that it drew and a mask that is white inside."""
    folder = tmp_path_factory.mktemp("edit") / "pictures"
    folder.mkdir()
    host = Host(folder, "--engine", engine)
    app = manifest("pocket", modalities=("text-to-image", "image-to-image"))
    host.initialize(manifest=app, grants={"user-folder": str(folder)})
    loaded = host.call("models.load", {"model": "pocket"}, timeout=120)
    assert (loaded["engine"], loaded["quantization"]) == (engine, "none")
    assert loaded["memoryBytes"] > 50e6
    host.generate(RED, seed=1, output={"path": "red.png"})
    stencil = Image.new("L", (SIDE, SIDE), 0)
    stencil.paste(255, (KEPT, KEPT, SIDE - KEPT, SIDE - KEPT))
    stencil.save(folder / "mask.png")
    yield host
    host.close()
    host.check()


def named(path):
    return {"root": "user-folder", "path": path}


def begin(host, prompt=GREEN, mask="mask.png", **options):
    params = {"prompt": prompt, "image": named("red.png"), "options": options}
    return host.start("image.edit", params | ({"mask": named(mask)} if mask else {}), stream=True)


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def test_a_model_that_was_loaded_ahead_is_ready_for_the_first_call(host):
    assert host.call("ping")["engine"]["model"] == "pocket"
    assert host.generate(RED, seed=2, steps=1)["timings"]["loadMs"] < 1000


def test_the_circle_is_repainted_and_the_untouched_part_stays_to_the_pixel(host):
    before = pixels((host.folder / "red.png").read_bytes())
    call = begin(host, strength=0.9, seed=3)
    messages = list(call.messages())
    result = call.result(60)
    after = pixels(decoded(result["images"][0]))
    assert look(before).things[0].colour == "red"
    assert (look(after).things[0].shape, look(after).things[0].colour) == ("circle", "green")
    outside = np.ones((SIDE, SIDE), bool)
    outside[KEPT:-KEPT, KEPT:-KEPT] = False
    assert (after[outside] == before[outside]).all()
    steps = [message for message in messages if message["phase"] == "denoising" and message["step"]]
    assert [message["step"] for message in steps] == list(range(1, len(steps) + 1))
    assert {message["steps"] for message in messages} == {len(steps)}
    options = result["parameters"]["options"]
    assert (options["width"], options["height"], options["precision"]) == (SIDE, SIDE, result["model"]["precision"])
    assert read_parameters(decoded(result["images"][0]))["image"]["sha256"]


def test_the_same_edit_makes_the_same_file_and_a_weak_one_changes_little(host):
    first = begin(host, mask=None, strength=0.1, seed=4).result(60)
    again = host.call("image.edit", first["parameters"], timeout=60)
    assert again["images"][0]["sha256"] == first["images"][0]["sha256"]
    before = pixels((host.folder / "red.png").read_bytes()).astype(float)
    weak = pixels(decoded(first["images"][0])).astype(float)
    strong = pixels(decoded(begin(host, mask=None, strength=1, seed=4).result(60)["images"][0])).astype(float)
    assert np.abs(weak - before).mean() < 16 < np.abs(strong - before).mean()


def test_a_source_of_a_size_that_the_model_does_not_make_is_refused_with_the_nearest(host):
    Image.new("RGB", (100, 80), "blue").save(host.folder / "other.png")
    call = host.start("image.edit", {"prompt": GREEN, "image": named("other.png")})
    error = error_of(call, 60)
    assert (error.kind, error.data["path"]) == ("InvalidParams", "$.options.width")
    assert (error.data["width"], error.data["height"]) == (SIDE, SIDE)
    options = {"width": SIDE, "height": SIDE, "steps": 2}
    assert host.call("image.edit", {"prompt": GREEN, "image": named("other.png"), "options": options}, timeout=60)


def test_a_broken_image_is_refused_by_the_engine_and_the_next_edit_works(host):
    whole = (host.folder / "red.png").read_bytes()
    (host.folder / "half.png").write_bytes(whole[: len(whole) // 2])
    error = error_of(host.start("image.edit", {"prompt": GREEN, "image": named("half.png")}), 60)
    assert (error.kind, error.data["path"]) == ("InvalidImage", "$.image")
    assert begin(host, steps=2).result(60)["images"]


def test_a_cancel_inside_an_edit_leaves_an_engine_that_edits_the_same_as_before(host):
    before = begin(host, seed=7, steps=8).result(60)["images"][0]["sha256"]
    call = begin(host, seed=7, steps=200)
    until(call, "denoising", step=2)
    call.cancel()
    assert error_of(call).code == -32800
    assert begin(host, seed=7, steps=8).result(60)["images"][0]["sha256"] == before


def test_unloading_gives_the_memory_back_and_the_next_edit_loads_again(host):
    assert host.call("models.unload", timeout=20) == {"unloaded": True}
    assert host.call("ping")["engine"]["state"] == "stopped"
    result = begin(host, steps=2).result(120)
    assert result["timings"]["loadMs"] > 0
    assert Path(result["images"][0]["path"]).exists()
