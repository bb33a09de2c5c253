"""An engine gets the environment variables that it needs, and no token."""

import psutil
import pytest

from locara_sidecar.machine.processes.child_environment import of_engine

SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "HTTPS_PROXY", "https_proxy",
    "SSH_AUTH_SOCK", "GITHUB_TOKEN", "DBUS_SESSION_BUS_ADDRESS", "MY_APP", "LOCARA_TOKEN",
    "LOCARA_CACHE_DIR", "LOCARA_MINE", "CUDA_API_KEY", "PGPASSWORD", "NVIDIA_PASSPHRASE", "TORCH_PRIVATE_KEY",
)  # fmt: skip
NEEDED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONPATH", "PYTHONUTF8",
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF",
    "MLX_ENABLE_TF32", "LOCARA_FAKE_STEP_MS", "SystemRoot", "VIRTUAL_ENV", "HSA_OVERRIDE_GFX_VERSION",
    "APP_SANDBOX_CONTAINER_ID", "__CF_USER_TEXT_ENCODING", "MTL_CAPTURE_ENABLED", "METAL_DEVICE_WRAPPER_TYPE",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_what_an_engine_does_not_need_stays_with_the_daemon(name):
    assert of_engine({name: "x"}) == {}


@pytest.mark.parametrize("name", NEEDED)
def test_what_an_engine_needs_is_passed_on(name):
    assert of_engine({name: "x"}) == {name: "x"}


def test_no_token_is_in_the_environment_of_a_real_engine(drive_process, spec, monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "s3cret-of-the-user")

    async def body(client):
        await client.make(spec())
        found = psutil.Process(client.connection.pid).environ()
        assert found["PATH"]
        assert "s3cret-of-the-user" not in found.values()

    drive_process(body)
