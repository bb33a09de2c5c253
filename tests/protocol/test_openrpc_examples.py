"""The examples of the OpenRPC document are executed: the daemon answers as they say."""

import jsonschema
import pytest

from locara_protocol import methods
from locara_protocol.generation import examples, openrpc, schemas
from support import openrpc_examples as wanted


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    examples_sent = {method: example.params for method, example in examples.recorded().items()}
    return wanted.play(tmp_path_factory.mktemp("pictures"), examples_sent)


def test_every_method_has_an_example_or_a_reason_why_not():
    assert set(examples.recorded()) | set(wanted.WITHOUT) == set(methods.METHODS)
    assert not set(examples.recorded()) & set(wanted.WITHOUT)


def test_they_are_the_ones_that_the_script_sends():
    sent = {method: example.params for method, example in examples.recorded().items()}
    assert sent == wanted.REQUESTS, "run: make transcript"


@pytest.mark.parametrize("method", list(examples.recorded()))
def test_the_daemon_answers_as_the_example_says(answers, method):
    assert wanted.masked(answers[method]) == wanted.masked(examples.recorded()[method].result)


@pytest.mark.parametrize("method", list(examples.recorded()))
def test_an_example_fits_the_schemas(method):
    example = examples.recorded()[method]
    documents = schemas.documents()
    jsonschema.validate(example.params, documents[f"{method}.params.json"])
    jsonschema.validate(example.result, documents[f"{method}.result.json"])


def test_in_the_document_params_are_in_the_places_of_the_method():
    shown = {method["name"]: method for method in openrpc.document()["methods"]}
    assert {name for name, method in shown.items() if "examples" in method} == set(examples.recorded())
    for name, example in examples.recorded().items():
        (pairing,) = shown[name]["examples"]
        places = [descriptor["name"] for descriptor in shown[name]["params"]]
        assert [param["name"] for param in pairing["params"]] == places[: len(pairing["params"])]
        assert {
            param["name"]: param["value"] for param in pairing["params"] if param["value"] is not None
        } == example.params
        assert pairing["result"]["value"] == example.result
