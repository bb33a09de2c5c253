"""What three other programs give to Metal for the same work, as recorded figures: they do not run here.

Counted in November 2026 with MLX 0.32's rules by the tool that ``mlx_work.py`` follows, recorded as ratios with two
digits and converted back to numbers. mflux was 0.24; the versions of the other two are unknown.
"""

from __future__ import annotations

TABLE_OF_CLIP = 49408 * 768 * 2
"""Bytes of CLIP-L's token embeddings in bfloat16. The peers were counted as if a lookup read all of them."""

PEERS: dict[str, dict[str, dict[str, float]]] = {
    "flux.1-dev": {
        "mflux": {"kernels": 3650, "bytes": 234e9, "copies": 49.1e9, "float32": 0.92},
        "mlx-examples": {"kernels": 1900, "bytes": 70.5e9, "copies": 20.6e9, "float32": 0.0},
        "DiffusionKit": {"kernels": 2130, "bytes": 106e9, "copies": 9.75e9, "float32": 0.49},
    },
    "sdxl": {"mlx-examples": {"kernels": 2000, "bytes": 16.2e9}},
    "vae-decode": {
        "mflux": {"kernels": 401, "bytes": 172e9},
        "mlx-examples": {"kernels": 275, "bytes": 105e9},
        "DiffusionKit": {"kernels": 272, "bytes": 104e9},
    },
    "clip-l": {
        "mflux": {"kernels": 183, "bytes": 0.13e9 - TABLE_OF_CLIP},
        "mlx-examples": {"kernels": 156, "bytes": 0.102e9 - TABLE_OF_CLIP},
    },
}
