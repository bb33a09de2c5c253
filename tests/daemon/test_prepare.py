"""models.prepare through the real daemon and the MLX engine, on tiny models of the store."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from locara_sidecar.capability.authorize import DOWNLOADS, MANAGEMENT
from locara_sidecar.models.cache.store import Store
from support.host import decoded, error_of

MODELS = Path(__file__).parents[2] / "fixtures" / "models"
PHASES = ["queued", "reading", "verifying", "publishing"]
pytestmark = [pytest.mark.timeout(200)]
mlx = pytest.mark.mlx


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def daemon(hosts, tmp_path, cache):
    """Start a daemon that knows tiny-flux as a model of the store, and import it."""
    (tmp_path / "catalogue").mkdir()
    entry = json.loads((MODELS / "tiny-flux.json").read_text())
    source = {"repository": "org/tiny", "files": ["*.json", "*.txt", "*.safetensors"]}
    (tmp_path / "catalogue" / "tiny.json").write_text(json.dumps(entry | {"id": "tiny", "source": source}))

    def start(*flags, folder=MODELS / "tiny-flux", engine="mlx", install=True):
        places = ("--cache-dir", str(cache), "--catalogue", str(tmp_path / "catalogue"))
        host = hosts.spawn(*(flags or (DOWNLOADS, MANAGEMENT)), *places, engine=engine)
        host.open("tiny", "pocket")
        if install and MANAGEMENT in (flags or (MANAGEMENT,)):
            host.call("models.import", {"model": "tiny", "from": str(folder)}, timeout=60)
        return host

    return start


def prepare(host, model="tiny", quantization="4bit", **params):
    return host.start("models.prepare", {"model": model, "quantization": quantization, **params}, stream=True)


def draw(host, model="tiny", **options):
    options = {"model": model, "steps": 2, "seed": 3, "width": 128, "height": 128, "metadata": "none"} | options
    options["output"] = {"metadata": options.pop("metadata")}
    result = host.call("image.generate", {"prompt": "a red circle", "options": options}, timeout=100)
    return decoded(result["images"][0]), result


def shown(host, model="tiny"):
    return host.call("models.get", {"model": model}, timeout=20)


def visible(cache):
    return {entry.key for entry in Store(cache).entries()}


@mlx
def test_a_model_is_prepared_and_drawn_from_what_was_prepared(daemon, cache):
    host = daemon()
    before, first = draw(host, quantization="4bit")
    call = prepare(host)
    messages = list(call.messages())
    result = call.result(100)
    source = shown(host)
    assert list(dict.fromkeys(message["phase"] for message in messages)) == PHASES
    for phase in PHASES:
        done = [message["bytes"] for message in messages if message["phase"] == phase]
        assert done == sorted(done)
    assert messages[-1]["bytes"] == messages[-1]["totalBytes"] > 0
    assert (result["engine"], result["quantization"], result["precision"]) == ("mlx", "4bit", "float32")
    assert result["derivedFrom"] == source["digest"] != result["digest"]
    assert 0 < result["sharedBytes"] < result["bytes"]
    members = ("engine", "quantization", "precision", "digest", "derivedFrom", "bytes")
    assert source["prepared"] == [{name: result[name] for name in members}]
    # from here on the model's own transformer cannot be read
    for path in (Path(source["path"]) / "transformer").glob("*.safetensors"):
        path.unlink()
    after, second = draw(host, quantization="4bit")
    assert after == before
    assert second["model"] == first["model"]
    assert second["timings"]["loadMs"] > 0  # in a new process
    # the form that the engine has loaded is in use, and so is its model
    assert host.call("models.gc", {"maxBytes": 0}, timeout=10)["removed"] == []
    assert error_of(host.start("models.remove", {"model": "tiny", "prepared": True})).data["errno"] == "EBUSY"
    host.call("models.unload", timeout=10)
    assert len(host.call("models.remove", {"model": "tiny"}, timeout=10)["removed"]) == 2


@pytest.mark.slow
@mlx
def test_what_is_prepared_already_is_told_at_once(daemon, cache):
    host = daemon()
    first = prepare(host, quantization="8bit").result(100)
    again = prepare(host, quantization="8bit")
    assert list(dict.fromkeys(message["phase"] for message in again.messages())) == ["queued", "reading"]
    assert again.result(100) == first
    assert len(visible(cache)) == 2
    other = prepare(host, quantization="8bit", precision="bfloat16").result(100)
    assert other["digest"] != first["digest"]
    assert {form["precision"] for form in shown(host)["prepared"]} == {"float32", "bfloat16"}
    assert list((cache / "incoming").iterdir()) == []


@pytest.mark.slow
@mlx
def test_loading_ahead_takes_what_was_prepared_and_counts_its_bytes(daemon, cache):
    host = daemon()
    prepare(host, quantization="8bit").result(100)
    for path in (Path(shown(host)["path"]) / "transformer").glob("*.safetensors"):
        path.unlink()
    call = host.start("models.load", {"model": "tiny", "quantization": "8bit"}, stream=True)
    after = list(call.messages())[-1]
    (form,) = Store(cache).forms()
    weights = sum(path.stat().st_size for path in form.folder.rglob("*.safetensors"))
    assert after["bytes"] == after["totalBytes"] == weights
    assert call.result(50)["quantization"] == "8bit"


@pytest.mark.slow
@mlx
def test_usage_removal_and_collection_know_what_was_prepared(daemon, cache):
    host = daemon()
    made = prepare(host).result(100)
    source = shown(host)["digest"]
    usage = host.call("models.usage", timeout=10)
    forms = {entry["digest"]: entry for entry in usage["entries"]}
    assert set(forms) == {source, made["digest"]}
    assert forms[made["digest"]]["derivedFrom"] == source
    assert (forms[made["digest"]]["model"], forms[made["digest"]]["quantization"]) == ("tiny", "4bit")
    assert "derivedFrom" not in forms[source]
    plan = host.call("models.gc", {"maxBytes": usage["bytes"] - 1, "dryRun": True}, timeout=10)
    row = {"model": "tiny", "digest": made["digest"], "derivedFrom": source, "quantization": "4bit"}
    assert plan["removed"] == [row]
    assert host.call("models.remove", {"model": "tiny", "prepared": True, "dryRun": True}, timeout=10) == plan
    both = host.call("models.remove", {"model": "tiny"}, timeout=10)
    assert both["removed"] == [row, {"model": "tiny", "digest": source}]
    assert host.call("models.usage", timeout=10)["bytes"] == 0
    assert visible(cache) == set()


@pytest.mark.slow
@mlx
def test_a_form_of_another_version_of_the_model_is_neither_shown_nor_used(daemon, cache, tmp_path):
    host = daemon()
    prepare(host).result(100)
    # the model is replaced by one with another weight
    changed = Path(shutil.copytree(MODELS / "tiny-flux", tmp_path / "changed"))
    shutil.rmtree(changed / "transformer")
    shutil.copytree(MODELS / "tiny-flux" / "transformer", changed / "transformer")
    victim = sorted((changed / "transformer").glob("*.safetensors"))[0]
    data = bytearray(victim.read_bytes())
    data[-4:] = bytes(4)
    data[-400:-396] = bytes(4)
    victim.write_bytes(data)
    store = Store(cache)
    (old,) = [entry for entry in store.entries() if entry.meta.ids]
    shutil.rmtree(old.folder)
    host.call("models.import", {"model": "tiny", "from": str(changed)}, timeout=60)
    assert shown(host)["prepared"] == []
    assert len(store.forms()) == 1
    again = prepare(host).result(100)
    assert [form["digest"] for form in shown(host)["prepared"]] == [again["digest"]]
    assert len(store.forms()) == 2


@mlx
@pytest.mark.slow
def test_the_embedded_model_is_prepared_too_and_only_its_form_can_be_removed(daemon, cache):
    host = daemon(install=False)
    before, _ = draw(host, "pocket", quantization="8bit")
    made = prepare(host, "pocket", "8bit").result(100)
    assert (made["sharedBytes"], made["derivedFrom"]) == (0, shown(host, "pocket")["prepared"][0]["derivedFrom"])
    after, _ = draw(host, "pocket", quantization="8bit")
    assert after == before
    host.call("models.unload", timeout=10)
    removed = host.call("models.remove", {"model": "pocket"}, timeout=10)["removed"]
    assert [row["digest"] for row in removed] == [made["digest"]]
    assert shown(host, "pocket")["installed"] is True
    assert shown(host, "pocket")["prepared"] == []


@pytest.mark.slow
@mlx
@pytest.mark.parametrize("at", ["queued", "reading"])
def test_a_cancelled_one_is_answered_and_nothing_of_it_is_left(daemon, cache, at):
    host = daemon()
    if at == "queued":
        running = host.begin("a red circle", model="tiny", steps=200, seed=1)
        next(iter(running.messages()))
    there = visible(cache)
    call = prepare(host)
    for message in call.messages():
        if message["phase"] == at:
            break
    began = time.monotonic()
    call.cancel()
    error = error_of(call)
    assert (error.code, error.data["images"]) == (-32800, [])
    assert time.monotonic() - began < 4
    assert visible(cache) == there
    assert list((cache / "incoming").iterdir()) == []
    if at == "queued":
        running.cancel()
        error_of(running)
    assert prepare(host).result(100)["quantization"] == "4bit"


@pytest.fixture
def large(tmp_path):
    """tiny-flux with a transformer that takes a moment to quantize."""
    pytest.importorskip("diffusers")
    from support import synthetic

    folder = Path(shutil.copytree(MODELS / "tiny-flux", tmp_path / "large"))
    shutil.rmtree(folder / "transformer")
    config = synthetic.FLUX | {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 128}
    config |= {
        "num_attention_heads": 12,
        "joint_attention_dim": 64,
        "pooled_projection_dim": 32,
        "guidance_embeds": False,
    }
    published = synthetic.Published("diffusers", "FluxTransformer2DModel", config)
    synthetic.write(folder / "transformer", published, shard_bytes=40_000_000)
    return folder


@mlx
@pytest.mark.slow
@pytest.mark.parametrize("way", ["cancel", "kill"])
def test_stopped_in_the_middle_of_the_weights_nothing_is_left(daemon, cache, large, way):
    host = daemon(folder=large)
    there = visible(cache)
    call = prepare(host)
    for message in call.messages():
        if message["phase"] == "reading" and message["bytes"] > 0:
            break
    began = time.monotonic()
    if way == "cancel":
        call.cancel()
    else:
        os.kill(host.call("ping")["engine"]["pid"], signal.SIGKILL)
    error = error_of(call)
    assert error.kind == ("RequestCancelled" if way == "cancel" else "EngineCrashed")
    assert time.monotonic() - began < 3
    assert visible(cache) == there
    assert list((cache / "incoming").iterdir()) == []
    assert host.call("ping")["engine"]["state"] == ("stopped" if way == "cancel" else "dead")


@pytest.mark.slow
@mlx
def test_an_engine_that_is_killed_while_preparing_is_told_and_leaves_nothing(daemon, cache):
    host = daemon()
    call = prepare(host)
    deadline = time.monotonic() + 60
    while (pid := host.call("ping")["engine"]["pid"]) is None:
        assert time.monotonic() < deadline
    os.kill(pid, signal.SIGKILL)
    assert error_of(call).kind in ("EngineUnavailable", "EngineCrashed")
    assert list((cache / "incoming").iterdir()) == []
    assert len(visible(cache)) == 1
    assert prepare(host).result(100)


@pytest.mark.slow
@mlx
def test_a_daemon_that_is_killed_while_preparing_leaves_what_the_next_one_sweeps(daemon, cache):
    host = daemon()
    prepare(host)
    deadline = time.monotonic() + 60
    while not (left := list((cache / "incoming").glob("tree-*/made"))):
        assert time.monotonic() < deadline
    host.process.kill()
    host.process.wait()
    assert len(visible(cache)) == 1
    os.utime(left[0].parent, (1, 1))
    host = daemon()
    prepare(host).result(100)
    assert list((cache / "incoming").iterdir()) == []


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fake", "torch"])
def test_an_engine_that_keeps_no_prepared_models_says_so_and_does_not_start(daemon, engine):
    if engine == "torch":
        pytest.importorskip("torch")
    host = daemon(engine=engine, install=False)
    error = error_of(prepare(host, "pocket"))
    assert (error.kind, error.data["engine"]) == ("EngineUnavailable", engine)
    assert host.call("ping")["engine"]["state"] == "stopped"


def test_another_engine_than_the_daemons_is_refused(daemon):
    error = error_of(prepare(daemon(install=False), "pocket", engine="torch"))
    assert (error.kind, error.data["engine"]) == ("EngineUnavailable", "torch")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "model", "reason"),
    [((MANAGEMENT,), "tiny", "hostFlag"), ((DOWNLOADS,), "sd3.5-medium", "notDeclared")],
)
def test_what_neither_manifest_nor_host_allows_is_denied(daemon, flags, model, reason):
    host = daemon(*flags)
    error = error_of(prepare(host, model))
    assert (error.kind, error.data["reason"]) == ("CapabilityDenied", reason)
    if reason == "hostFlag":
        assert error.data["host"] == {"flags": [DOWNLOADS]}


def test_a_model_that_is_not_there_is_said_not_to_be(daemon):
    assert error_of(prepare(daemon(install=False))).kind == "ModelNotInstalled"


def test_a_form_has_fewer_bits(daemon):
    host = daemon(install=False)
    for quantization in ("none", "auto", "3bit", None):
        error = error_of(prepare(host, quantization=quantization))
        assert (error.kind, error.data["path"]) == ("InvalidParams", "$.quantization"), quantization
