"""Shipped files contain no paths of developers' folders."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = {".json", ".md", ".txt"}
# the contract's own page speaks of a user's home on purpose
FILES = [
    file
    for folder in ("sidecar", "protocol/schema", "fixtures/models")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in TEXTS
]


def test_no_shipped_text_names_a_path_of_the_machine_that_made_it():
    assert len(FILES) > 20
    found = [file.name for file in FILES if re.search(r'"/(tmp|root|work|home)/', file.read_text("utf-8"))]
    assert found == []
