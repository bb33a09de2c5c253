"""The Rust crate's generated types, and the check of what it depends on."""

import importlib.util
from pathlib import Path
from typing import Literal

import pytest

from locara_protocol import errors, generate, rust_source
from locara_protocol.messages import Result
from locara_protocol.methods import METHODS

RUST = Path(__file__).resolve().parents[2] / "protocol" / "rust"


def test_the_committed_types_are_fresh_and_a_stale_file_is_named(tmp_path):
    assert (RUST / "src" / "schema.rs").read_bytes() == rust_source.source(), "run: python -m locara_protocol.generate"
    (tmp_path / "schema.rs").write_text("old")
    assert generate.modules(write_them=False, rust=tmp_path) == ["schema.rs"]
    assert generate.modules(write_them=True, rust=tmp_path) == ["schema.rs"]
    assert generate.modules(write_them=False, rust=tmp_path) == []


def test_every_method_and_kind_of_error_is_there():
    text = rust_source.source().decode()
    for name in METHODS:
        assert f'const NAME: &\'static str = "{name}";' in text
    for kind, code in errors.CODES.items():
        assert f'Self::{kind} => "{kind}",' in text
        assert f"{code} => Self::{kind}," in text


def test_what_is_sent_is_strict_and_what_is_received_may_grow():
    text = rust_source.source().decode()
    sent, received = text.split("pub struct OutputOptions")[0], text.split("pub struct GenerateResult")[0]
    assert sent.endswith('#[serde(rename_all = "camelCase", deny_unknown_fields)]\n')
    assert received.endswith('#[serde(rename_all = "camelCase")]\n#[non_exhaustive]\n')
    assert "Other(String)" in text.split("pub enum Phase {")[1].split("}")[0]
    assert "Other(String)" not in text.split("pub enum OnConflict {")[1].split("}")[0]


def test_values_without_a_name_in_rust_are_an_error(monkeypatch):
    class Odd(Result, frozen=True):
        colour: Literal["red", "green"]

    with pytest.raises(LookupError, match=r"\['green', 'red'\] has no name in Rust"):
        rust_source._key(next(iter(rust_source._literals(Odd))))


@pytest.fixture(scope="module")
def dependencies():
    spec = importlib.util.spec_from_file_location("dependencies", RUST / "dependencies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("MIT", True),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("(MIT OR GPL-2.0) AND GPL-2.0", False),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", True),
        ("LGPL-2.1-or-later", False),
        ("", False),
    ],
)
def test_a_licence_expression_is_met_or_not(dependencies, expression, met):
    assert dependencies.permitted(expression) is met


def metadata(licence="MIT", source="registry", rust="1.80", kind=None):
    """What cargo reports about a crate that needs Rust 1.87 and has one dependency."""
    ours = {"id": "a", "name": "a", "version": "1", "license": "MIT", "rust_version": "1.87", "source": None}
    theirs = {"id": "b", "name": "b", "version": "2", "license": licence, "rust_version": rust, "source": source}
    third = theirs | {"id": "c", "name": "c", "license": "MIT", "source": "registry", "rust_version": None}
    needs = [{"pkg": "b", "dep_kinds": [{"kind": kind}]}, {"pkg": "c", "dep_kinds": [{"kind": None}]}]
    nodes = [{"id": "a", "deps": needs}, {"id": "b", "deps": []}, {"id": "c", "deps": []}]
    return {"packages": [ours, theirs, third], "resolve": {"root": "a", "nodes": nodes}}


@pytest.mark.parametrize(
    ("changed", "sentences"),
    [
        ({}, []),
        ({"licence": "GPL-3.0-only"}, ["b 2 has the licence GPL-3.0-only, which is not allowed"]),
        ({"source": "git+elsewhere"}, ["packages come from git+elsewhere and registry"]),
        ({"rust": "1.87.0"}, []),
        ({"rust": "1.88"}, ["b needs Rust 1.88, and Cargo.toml promises 1.87"]),
        ({"rust": "1.88", "kind": "dev"}, []),
    ],
)
def test_what_must_not_be_depended_on_is_named(dependencies, changed, sentences):
    assert dependencies.problems(metadata(**changed)) == sentences
