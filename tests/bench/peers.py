"""What three other programs give to Metal for the same work, as recorded figures: they do not run here.

Their own code was built in its true configuration and counted with ``graph_tracing.counted``, by MLX 0.32's rules,
whichever MLX the program itself asks for. ``README.md`` says how to repeat that.
"""

from __future__ import annotations

COUNTED = "2026-12-01"
"""When these figures were counted."""

VERSIONS: dict[str, tuple[str, str]] = {
    "mflux": ("0.24.0", "2026-10-27"),
    "mlx-examples": ("7ddca42", "2025-11-20"),
    "DiffusionKit": ("0.5.2", "2024-12-06"),
}
"""Release, or commit of a repository without releases, and its date."""

PEERS: dict[str, dict[str, dict[str, float]]] = {
    "flux.1-dev": {
        # its latent is in float32
        "mflux": {"kernels": 3657, "bytes": 232.4e9, "copies": 49.14e9, "float32": 0.9256},
        "mlx-examples": {"kernels": 1900, "bytes": 70.45e9, "copies": 20.52e9, "float32": 0.00044},
        # cosines and sines from an earlier step, modulation computed ahead, and no guidance: it opens dev as schnell
        "DiffusionKit": {"kernels": 2131, "bytes": 106.2e9, "copies": 9.741e9, "float32": 0.4917},
    },
    # with the step of its sampler; the network alone is 1985 kernels and 16.13 GB
    "sdxl": {"mlx-examples": {"kernels": 2044, "bytes": 16.13e9}},
    "vae-decode": {
        # of a latent in bfloat16, as for ours; from float32, in which mflux itself has it, 410 kernels and 186.8 GB
        "mflux": {"kernels": 399, "bytes": 172.5e9},
        "mlx-examples": {"kernels": 275, "bytes": 105.1e9},
        "DiffusionKit": {"kernels": 273, "bytes": 104.0e9},
    },
    "clip-l": {
        "mflux": {"kernels": 183, "bytes": 0.05522e9},
        "mlx-examples": {"kernels": 156, "bytes": 0.02643e9},
    },
}
