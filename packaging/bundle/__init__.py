"""Makes the folder that an app ships, ``dist/locara-sidecar-<target>/``: see README.md in this folder."""
