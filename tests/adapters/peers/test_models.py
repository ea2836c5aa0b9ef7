"""Which models there are, and which one is asked for."""

import json

import pytest

import langchain_nemovlm
from nemovlm.errors import ConfigurationError, ModelNotServedError, RequestRefusedError
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX, ONCE, Elsewhere, Stage, row, same
from tests.support.faults import MODEL, says, vectors_of

V1 = "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1"


@row(LANGCHAIN, "test_available_models.py", "models are listed, hosted or not, by an object and by its class")
@row(LLAMAINDEX, "test_available_models.py", "models are listed, hosted or not, by an object")
def test_models_are_listed_by_an_object_and_by_its_class(stage: Stage) -> None:
    """Whoever wants to know the models of a server, hosted or not, need not make an object first."""
    stage.wire.models = ["a/first", "b/second"]
    assert stage.make().available_models == ["a/first", "b/second"]
    assert stage.door.kind.get_available_models(nvidia_base_url=stage.wire.url) == ["a/first", "b/second"]
    elsewhere = Elsewhere([{"id": "nvidia/x"}])
    fields = {"engine": "nim", "nvidia_api_key": "k", "http_client": elsewhere.client}
    assert stage.door.kind.get_available_models(**fields) == ["nvidia/x"]
    assert elsewhere.asked == ["GET https://integrate.api.nvidia.com/v1/models"]
    assert elsewhere.keys == {"Bearer k"}


@row(
    *(LANGCHAIN, "test_available_models.py", "models are objects with properties, from a table in the package"),
    differs="ids are all that a server tells; a table of the others is out of date the day after",
    colors=ONCE,
)
@row(
    *(LLAMAINDEX, "test_available_models.py", "models are objects with properties, hosted ones from a table"),
    differs="ids are all that a server tells; a table of the others is out of date the day after",
    colors=ONCE,
)
def test_models_are_ids_from_a_server(stage: Stage) -> None:
    """What is listed are strings, and without a server to ask there is no list."""
    assert [type(model) for model in stage.make().available_models] == [str]
    with pytest.raises(ConfigurationError, match="no model was chosen"):
        stage.door.kind.get_available_models()


@row(
    *(LANGCHAIN, "test_available_models.py", "one request for models and one warning per construction"),
    differs="constructing asks nobody; each look at available_models asks anew, once",
    colors=ONCE,
)
def test_each_look_at_the_models_asks_once(stage: Stage) -> None:
    """Constructing asks for no models; `available_models` does, every time."""
    made = stage.make()
    assert not stage.wire.requests
    for count in (1, 2):
        assert made.available_models == [MODEL]
        assert [request.target for request in stage.wire.requests] == ["/v1/models"] * count


@row(LANGCHAIN, "test_available_models.py", "an id that is listed twice is one model")
def test_an_id_that_is_listed_twice_is_one_model(stage: Stage) -> None:
    """Doubles in a server's list neither show nor keep its first model from being chosen."""
    stage.wire.models = [MODEL, MODEL, "b", "b"]
    made = stage.make()
    assert made.available_models == [MODEL, "b"]
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert stage.wire.asked[0]["model"] == MODEL


@row(LANGCHAIN, "test_model.py", "a known model is accepted without a word")
def test_a_model_that_was_chosen_is_not_looked_up(stage: Stage) -> None:
    """With a model by name, the list of models is asked for once, to see what the server is, and need not be there."""
    assert same(stage.door.query(stage.make(model=MODEL), "a"), vectors_of(["a"], "query")[0])
    assert [request.target for request in stage.wire.requests] == ["/v1/models", "/v1/embeddings"]


@row(
    *(LANGCHAIN, "test_embeddings.py", "a listed model of unknown type is warned about"),
    differs="nobody needs a table of models to embed with one; what does not work is an error of the request",
)
@row(
    *(LANGCHAIN, "test_model.py", "an unknown model is warned about, be it listed or not"),
    differs="as above: a warning for each new model teaches to ignore warnings",
)
def test_an_unknown_model_is_no_reason_for_a_warning(stage: Stage) -> None:
    """A model that nobody here has heard of is asked for in silence, listed or not; warnings are errors in tests."""
    elsewhere = Elsewhere([{"id": "nvidia/listed"}])
    for model in ("nvidia/listed", "nvidia/unlisted"):
        made = stage.make(base_url=HOSTED_URL, api_key="k", model=model, http_client=elsewhere.client)
        assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
    assert {json.loads(request.content)["model"] for request in elsewhere.requests} == {
        "nvidia/listed",
        "nvidia/unlisted",
    }


@row(
    *(LANGCHAIN, "test_model.py", "a deprecated model is warned about if it is hosted"),
    differs="what NVIDIA retires is not known here; a model that is gone is a ModelNotServedError",
)
def test_a_model_that_is_gone_is_an_error_that_names_the_others(stage: Stage) -> None:
    """A model on its way out works in silence as long as it is served; then the error says what is."""
    elsewhere = Elsewhere()
    made = stage.make(model=V1, base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    with pytest.raises(ModelNotServedError, match=f"does not exist.*it serves: {MODEL}"):
        stage.door.query(stage.make(model=V1), "a")


@row(LANGCHAIN, "test_model.py", "a self-hosted server is asked for a model by the name that was given, alias or not")
def test_a_server_is_asked_for_a_model_by_the_name_that_was_given(stage: Stage) -> None:
    """No table of aliases stands between a name, given or listed, and the server."""
    alias = "nvidia/llama-3.2-nv-embedqa-1b-v2"
    stage.wire.models = [alias]
    for fields in ({"model": alias}, {}):
        assert same(stage.door.query(stage.make(**fields), "a"), vectors_of(["a"], "query")[0])
    assert {body["model"] for body in stage.wire.asked} == {alias}


@row(
    *(LANGCHAIN, "test_model.py", "without model a self-hosted server's first is taken, with a warning"),
    differs="that a server with one model is asked for this one is no surprise to warn of",
)
@row(
    *(LLAMAINDEX, "test_base_url.py", "without model a self-hosted server's first is taken, with a warning"),
    differs="that a server with one model is asked for this one is no surprise to warn of",
)
@row(LLAMAINDEX, "test_mode_switch.py", "without model a self-hosted server's first is taken")
def test_without_a_model_a_servers_first_is_taken(stage: Stage) -> None:
    """Where none was chosen, the first of the list is asked for, without a warning; an empty list is an error."""
    stage.wire.models = ["nvidia/x", "nvidia/y"]
    made = stage.make()
    assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
    assert [body["model"] for body in stage.wire.asked[-1:]] == ["nvidia/x"]
    assert made.embedder.model == "nvidia/x"
    stage.wire.models = []
    with pytest.raises(ModelNotServedError, match="no model was chosen, and the server has none"):
        stage.door.text(stage.make(), "a")


@row(LANGCHAIN, "test_model.py", "an adapter (LoRA) is a model like others, and never the default")
@row(LLAMAINDEX, "test_mode_switch.py", "an adapter (LoRA) is a model like others, and never the default")
def test_an_adapter_is_never_the_default(stage: Stage) -> None:
    """Of a list that begins with a LoRA, the model below it is taken, and the LoRA where it is named."""
    models = [{"id": "lora", "root": "base"}, {"id": "base", "root": "base"}]
    for fields, model in (({}, "base"), ({"model": "lora"}, "lora")):
        elsewhere = Elsewhere(models)
        made = stage.make(base_url="http://nim.example", http_client=elsewhere.client, **fields)
        assert same(stage.door.text(made, "a"), vectors_of(["a"])[0])
        assert json.loads(elsewhere.requests[-1].content)["model"] == model


@row(
    *(LANGCHAIN, "test_model.py", "a model of another kind is warned about: 'incompatible with client'"),
    differs="the server knows what its models can do, and its refusal is the error",
)
def test_a_model_of_another_kind_is_the_servers_to_refuse(stage: Stage) -> None:
    """What a server says of a model that does not embed is what the error says."""
    stage.wire.always = says(400, {"error": "meta/llama-3.1-8b-instruct does not support embeddings"})
    stage.wire.models = ["meta/llama-3.1-8b-instruct"]
    with pytest.raises(RequestRefusedError, match="does not support embeddings"):
        stage.door.query(stage.make(model="meta/llama-3.1-8b-instruct", dimensions=8), "a")


@row(
    *(LANGCHAIN, "test_register_model.py", "register_model() makes an unknown model usable without warnings"),
    differs="every id is usable, so there is nothing to register; a model's own endpoint is its base_url",
)
def test_no_model_is_registered(stage: Stage) -> None:
    """A model with an endpoint of its own is used by its id and that URL, and there is nothing to register it with."""
    assert not hasattr(langchain_nemovlm, "register_model")
    assert not hasattr(langchain_nemovlm, "Model")
    elsewhere = Elsewhere()
    made = stage.make(model="my/model", base_url="http://nim.example/my/own/embeddings", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert elsewhere.asked[-1] == "POST http://nim.example/my/own/embeddings"
    assert json.loads(elsewhere.requests[-1].content)["model"] == "my/model"
