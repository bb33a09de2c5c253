"""``--compile``, end to end: the compiler runs in the engine's sandbox, and a cancel during it is answered."""

import shutil
import time

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("diffusers")

from support.host import error_of, until  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here"),
]


def picture(host, result):
    from PIL import Image

    with Image.open(host.folder / result["images"][0]["relativePath"]) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.slow
def test_a_compiled_engine_draws_the_same_picture_within_a_few_levels(hosts):
    options = {"seed": 1, "steps": 4, "precision": "float32", "preview": {"mode": "off"}}
    plain = hosts.session(engine="torch")
    expected = picture(plain, plain.call("image.generate", {"prompt": "a star", "options": options}, timeout=100))
    host = hosts.session("--compile", engine="torch")
    call = host.begin("a star", **options)
    until(call, "denoising")
    time.sleep(1)  # it is compiling now
    began = time.monotonic()
    call.cancel()
    assert error_of(call).kind == "RequestCancelled"
    assert time.monotonic() - began < 4
    result = host.call("image.generate", {"prompt": "a star", "options": options}, timeout=200)
    log = host.log()
    assert "5 blocks will be compiled" in log
    assert "run uncompiled" not in log
    assert np.abs(picture(host, result) - expected).max() <= 2
    warm = host.call("image.generate", {"prompt": "a star", "options": options}, timeout=60)
    assert warm["timings"]["denoiseMs"] < result["timings"]["denoiseMs"] / 4
    compiling, alone = (one.call("system.info")["sandbox"] for one in (host, plain))
    assert (compiling["enforced"], compiling["kind"]) == (alone["enforced"], alone["kind"])
    apart = {name for name in alone["details"] if compiling["details"][name] != alone["details"][name]}
    assert apart <= {"processes", "callFilter"}, "it may start a compiler, and nothing else is different"
