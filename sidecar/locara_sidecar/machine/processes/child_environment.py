"""The environment variables that an engine gets from the daemon: those that an interpreter, a library or a driver
needs.

All others are withheld. Hosts and users keep tokens in theirs, under names that nobody can list, so the ones to pass on
are listed instead.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from locara_sidecar.machine.processes import interpreter

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = frozenset(
    {
        # the system's
        *(
            "PATH",
            "HOME",
            "USER",
            "LOGNAME",
            "SHELL",
            "LANG",
            "LANGUAGE",
            "TZ",
            "TMPDIR",
            "TEMP",
            "TMP",
            "TERM",
            "COLUMNS",
        ),
        *("SYSTEMROOT", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA"),
        *(
            "PROCESSOR_ARCHITECTURE",
            "NUMBER_OF_PROCESSORS",
            "XDG_CACHE_HOME",
            "XDG_RUNTIME_DIR",
            "__CF_USER_TEXT_ENCODING",
            "APP_SANDBOX_CONTAINER_ID",
        ),
        # the interpreter's
        *("VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__"),
        # compilers and toolchains, for compiled blocks and kernels
        *("CC", "CXX", "TRITON_LIBCUDA_PATH", "TRITON_PTXAS_PATH"),
    }
)
_FAMILIES = re.compile(
    r"""(?: PYTHON | LC_ | LD_ | DYLD_ | MALLOC_ | GLIBC_ | ASAN_ | COVERAGE_ | COV_CORE_
    | OMP_ | GOMP_ | KMP_ | MKL_ | OPENBLAS_ | BLIS_ | VECLIB_ | NUMEXPR_ | ONEDNN_ | DNNL_
    | CUDA_ | CUDNN_ | CUBLAS_ | NVIDIA_ | NCCL_ | HIP_ | HSA_ | ROCR_ | ROCM_ | AMD_ | ZE_ | SYCL_
    | PYTORCH_ | TORCH | ATEN_ | MLX_ | MTL_ | METAL_ | MPS_ | BITSANDBYTES_ | BNB_ | LOCARA_FAKE_ ) [A-Z0-9_]*""",
    re.VERBOSE,
)
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|(?:API|ACCESS|PRIVATE|SIGNING|ENCRYPTION)_?KEY|COOKIE|SESSION"
)


def of_engine(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables for an engine process. Names are compared in upper case, as Windows does."""
    return interpreter.heeded({name: value for name, value in environ.items() if _is_passed_on(name.upper())})


def _is_passed_on(name: str) -> bool:
    return (name in _NAMES or _FAMILIES.fullmatch(name) is not None) and _SECRET.search(name) is None
