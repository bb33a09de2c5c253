"""The generated documents are complete, well-formed and the same as the committed ones."""

import json
import re

import jsonschema
import msgspec
import pytest

from locara_protocol import channel_messages as channels
from locara_protocol import errors, generate, methods
from locara_protocol import image_messages as images
from locara_protocol.generation import openrpc, schemas
from locara_protocol.jsonrpc import encode_notification, encode_result

DOCUMENT = json.loads(openrpc.document_bytes())

# The structure that OpenRPC requires of the parts used here.
STRUCTURE = {
    "type": "object",
    "required": ["openrpc", "info", "methods"],
    "properties": {
        "openrpc": {"pattern": r"^1\.[0-9]+\.[0-9]+$"},
        "info": {"type": "object", "required": ["title", "version"]},
        "methods": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "params", "result"],
                "properties": {
                    "name": {"type": "string", "pattern": r"^[a-z]+(\.[a-zA-Z]+)?$"},
                    "summary": {"type": "string"},
                    "paramStructure": {"const": "by-name"},
                    "params": {"type": "array", "items": {"$ref": "#/$defs/descriptor"}},
                    "result": {"$ref": "#/$defs/descriptor"},
                    "errors": {"type": "array", "items": {"type": "object", "required": ["$ref"]}},
                    "examples": {"type": "array", "items": {"required": ["name", "params", "result"]}},
                    "x-capability": {"type": "string"},
                    "x-notification": {"type": "string"},
                    "x-batch": {"type": "boolean"},
                    "x-before-initialize": {"type": "boolean"},
                },
                "additionalProperties": False,
            },
        },
        "components": {"type": "object", "required": ["schemas", "errors"]},
        "x-notifications": {"type": "array"},
    },
    "additionalProperties": False,
    "$defs": {
        "descriptor": {
            "type": "object",
            "required": ["name", "schema"],
            "properties": {"name": {"type": "string"}, "required": {"type": "boolean"}, "schema": {"type": "object"}},
            "additionalProperties": False,
        }
    },
}


def references(tree):
    if isinstance(tree, dict):
        if isinstance(tree.get("$ref"), str):
            yield tree["$ref"]
        for member in tree.values():
            yield from references(member)
    elif isinstance(tree, list):
        for member in tree:
            yield from references(member)


def test_committed_files_are_up_to_date():
    assert generate.stale(generate.DEFAULT_FOLDER) == [], "run: python -m locara_protocol.generate"


def test_generate_writes_what_check_wants(tmp_path, capsys):
    (tmp_path / "left-over.json").write_text("{}")
    assert generate.main(["--check", "--folder", str(tmp_path)]) == 1
    assert generate.main(["--folder", str(tmp_path)]) == 0
    assert generate.main(["--check", "--folder", str(tmp_path)]) == 0
    assert not (tmp_path / "left-over.json").exists()
    assert "stale: openrpc.json" in capsys.readouterr().err


def test_descriptions_are_the_same_with_every_python():
    """Before 3.13 it keeps a docstring's indentation."""
    told = list(descriptions(json.loads(openrpc.document_bytes())))
    assert any("\n" in one for one in told)
    assert [one for one in told if "\n " in one] == []


def descriptions(node):
    """Yield all descriptions in a document."""
    if isinstance(node, dict) and isinstance(node.get("description"), str):
        yield node["description"]
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from descriptions(inner)


def test_document_has_the_structure_of_openrpc():
    jsonschema.validate(DOCUMENT, STRUCTURE)
    assert [method["name"] for method in DOCUMENT["methods"]] == list(methods.METHODS)
    assert [note["name"] for note in DOCUMENT["x-notifications"]] == list(methods.NOTIFICATIONS)


def test_required_parameters_come_first():
    for method in DOCUMENT["methods"]:
        flags = [parameter["required"] for parameter in method["params"]]
        assert flags == sorted(flags, reverse=True)
        assert "_meta" in {parameter["name"] for parameter in method["params"]}


@pytest.mark.parametrize("name", list(generate.files()))
def test_every_reference_within_a_file_leads_somewhere(name):
    tree = json.loads(generate.files()[name])
    for reference in references(tree):
        node = tree
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_document_is_one_line_and_made_once():
    assert b"\n" not in openrpc.document_bytes()
    assert openrpc.document_bytes() is openrpc.document_bytes()
    raw = encode_result(1, msgspec.Raw(openrpc.document_bytes()))
    assert json.loads(raw)["result"] == DOCUMENT


def test_errors_of_a_method_are_its_own_and_those_of_any_request():
    generate_errors = next(method for method in DOCUMENT["methods"] if method["name"] == "image.generate")["errors"]
    kinds = [error["$ref"].rsplit("/", 1)[1] for error in generate_errors]
    assert set(kinds) == {*methods.ANY_REQUEST_ERRORS, *methods.METHODS["image.generate"].errors}
    assert DOCUMENT["components"]["errors"]["QueueFull"]["code"] == errors.CODES["QueueFull"]


@pytest.mark.parametrize("name", list(schemas.documents()))
def test_every_schema_is_valid_draft_2020_12(name):
    jsonschema.Draft202012Validator.check_schema(schemas.documents()[name])


def valid(name: str, value: object) -> bool:
    return jsonschema.Draft202012Validator(schemas.documents()[name]).is_valid(value)


def test_schemas_accept_and_refuse_as_the_decoder_does():
    assert valid("image.generate.params.json", {"prompt": "a", "channel": "__CHANNEL__:7", "_meta": {"x": 1}})
    assert valid("image.generate.params.json", {"prompt": "a", "options": {"steps": None}})
    assert not valid("image.generate.params.json", {"prompt": "a", "options": {"stepz": 4}})
    assert not valid("image.generate.params.json", {"prompt": "a", "channel": "__CHANNEL__:4294967296"})
    assert not valid("image.generate.params.json", {"options": {}})


def test_frames_of_a_channel_fit_their_schema():
    step = images.DiffusionStep(
        job_id="j", phase="denoising", image=1, images=1, step=1, steps=4, progress=0.25, elapsed_ms=10
    )
    for frame in (channels.ChannelMessage(channel=7, index=0, message=step), channels.ChannelEnd(channel=7, index=1)):
        assert valid("DiffusionStep.params.json", json.loads(encode_notification("DiffusionStep", frame))["params"])
    assert not valid("DiffusionStep.params.json", {"channel": 7, "index": 0})


def test_an_error_answer_fits_its_schema():
    assert valid("error.json", errors.invalid_params("$.a", "x").to_wire())
    assert not valid("error.json", {"code": 1, "message": "x"})


def test_every_long_call_tells_that_it_may_be_refused_as_one_too_many_and_be_cancelled():
    long = [method for method in methods.METHODS.values() if method.notification]
    assert len(long) == 7
    for method in long:
        assert {"QueueFull", "RequestCancelled"} <= set(method.errors), method.name


def test_readme_names_every_method_notification_and_error():
    text = (generate.DEFAULT_FOLDER.parents[1] / "README.md").read_text("utf-8")
    for name in [*methods.METHODS, *methods.NOTIFICATIONS]:
        assert f"`{name}`" in text, name
    for kind, code in errors.CODES.items():
        assert re.search(rf"\| {code} \| `{kind}` \|", text), kind
    for option in schemas.documents()["image.generate.params.json"]["$defs"]["GenerateOptions"]["properties"]:
        assert option == "_meta" or f"`{option}`" in text, option
