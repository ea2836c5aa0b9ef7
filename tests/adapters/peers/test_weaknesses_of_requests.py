"""What the clients get wrong in what they send, and in how much of it: ours does not."""

import base64

import numpy as np
import pytest
from PIL import Image

from nemovlm import Passage
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import DATA_URL, LANGCHAIN, LLAMAINDEX, ONCE, Elsewhere, Stage, row, same
from tests.support.checkpoints import case_image
from tests.support.faults import MODEL, late, vectors_of


@row(LANGCHAIN, "L1", "modality and embedding_type are never sent, and arguments by these names are ignored")
def test_every_request_says_what_its_items_are_and_how_vectors_are_wanted(stage: Stage) -> None:
    """Modality and embedding type are sent for queries, texts, texts with a data URL in them, and images."""
    made = stage.make(model=MODEL, embedding_type="int8")
    stage.door.query(made, "a")
    stage.door.texts(made, ["a", f"see {DATA_URL}"])
    stage.door.images(made, [stage.picture(case_image("icon"))])
    assert [(body["modality"], body["embedding_type"]) for body in stage.wire.asked] == [
        ("text", "int8"),
        ("text", "int8"),
        ("image", "int8"),
    ]


@row(
    *(LANGCHAIN, "L1", "user is never sent, and an argument by this name is ignored"),
    differs="NVIDIA's reference says that it is ignored; a header says who calls",
    colors=ONCE,
)
def test_user_is_refused(stage: Stage) -> None:
    """What would not be sent is an error that names it."""
    with pytest.raises(ValueError, match="user"):
        stage.make(user="me")


@row(LANGCHAIN, "L2")
def test_texts_are_data_whatever_they_hold(stage: Stage) -> None:
    """A text with a data URL in it is a text; one that is nothing else is an image for LangChain's class alone."""
    made = stage.make(base_url=stage.honest)
    image = case_image("square")
    text = f"this is a data URL: {DATA_URL}"
    assert same(stage.door.images(made, [stage.picture(image)]), stage.local.embed([image]))
    alone = Passage(image=DATA_URL) if stage.door.framework == LANGCHAIN else DATA_URL  # as the card's example has it
    assert same(stage.door.texts(made, [DATA_URL, text]), stage.local.embed([alone, text]))
    assert same(stage.door.query(made, text), stage.local.embed_query(text))


@row(LANGCHAIN, "L3")
def test_what_is_sought_by_its_image_is_found(stage: Stage) -> None:
    """An image to search with is embedded as the image in the index was, and sent as a NIM takes it."""
    made = stage.make(base_url=stage.honest)
    names = ("portrait", "square", "noise")
    pages = stage.local.embed([case_image(name) for name in names])
    for index, name in enumerate(names):
        (vector,) = stage.door.images(made, [stage.picture(case_image(name))])
        assert int(np.argmax(pages @ np.array(vector))) == index
    stage.door.images(stage.make(model=MODEL), [stage.picture(case_image("icon"))])
    assert stage.wire.asked[-1]["input_type"] == "passage"  # a NIM takes no image with 'query'


@row(LANGCHAIN, "L6")
@row(LLAMAINDEX, "I11")
def test_requests_are_under_way_at_once_up_to_a_limit(stage: Stage) -> None:
    """The batches of one call do not wait for each other, in sync code either, beyond `max_concurrency`."""
    stage.wire.always = late(0.1)
    texts = ["a", "b", "c", "d"]
    assert same(stage.door.texts(stage.make(model=MODEL, max_batch_size=1), texts), vectors_of(texts))
    assert stage.wire.most_busy > 1
    stage.wire.most_busy = 0
    stage.door.texts(stage.make(model=MODEL, max_batch_size=1, max_concurrency=2), texts)
    assert stage.wire.most_busy <= 2


@row(LANGCHAIN, "L17")
def test_nobody_hears_of_a_call_but_its_server(stage: Stage) -> None:
    """Calls to hosted NIMs are reported to no other host, not even when all is closed."""
    elsewhere = Elsewhere()
    made = stage.make(base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    stage.door.query(made, "a")
    stage.door.texts(made, ["a"])
    made.embedder.close()
    assert {request.url.host for request in elsewhere.requests} == {"integrate.api.nvidia.com"}


@row(LANGCHAIN, "L18", "requests are as large as their items make them")
def test_a_request_is_no_larger_than_it_may_be(stage: Stage) -> None:
    """Texts are put into as many requests as `max_request_bytes` takes."""
    made = stage.make(model=MODEL, max_request_bytes=4096)
    texts = [f"{number}" * 1000 for number in range(10)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    assert max(len("".join(body["input"])) for body in stage.wire.asked) <= 4096


@row(LANGCHAIN, "L18", "images are sent as large as they are")
def test_an_image_is_no_larger_than_it_may_be(stage: Stage) -> None:
    """An image that is larger as a file than `max_image_bytes` is sent smaller."""
    made = stage.make(model=MODEL, max_image_bytes=300_000)
    noise = np.random.default_rng(0).integers(0, 255, (480, 800, 3), dtype=np.uint8)
    stage.door.images(made, [stage.picture(Image.fromarray(noise))])  # 1.1 MB
    (content,) = stage.wire.asked[0]["input"]
    assert len(base64.b64decode(content.partition(",")[2])) <= 300_000


@row(LANGCHAIN, "L18", "nobody tells how many tokens were used, and one bad item costs all others their vectors")
def test_tokens_are_counted_and_one_bad_item_costs_itself_alone(stage: Stage) -> None:
    """`usage` says what was asked and how many tokens it took, and a stream goes on after an item that failed."""
    stage.wire.max_length = 20
    made = stage.make(model=MODEL)
    stage.door.texts(made, ["a", "bc"])
    assert (made.embedder.usage.items, made.embedder.usage.tokens) == (2, 3)
    kept = list(made.embedder.stream(["a", "long " * 20, "b"], on_error="skip"))
    assert kept[1] is None
    assert same([kept[0], kept[2]], vectors_of(["a", "b"]))


@row(LANGCHAIN, "L18", "there is no cache")
def test_what_was_embedded_before_is_taken_from_a_cache(stage: Stage) -> None:
    """Another object with the same cache asks nobody for the same texts, and does for one as a query."""
    cache: dict[str, bytes] = {}
    for _ in range(2):
        made = stage.make(model=MODEL, cache=cache)
        assert same(stage.door.texts(made, ["a", "b"]), vectors_of(["a", "b"]))
    assert len(stage.wire.posts) == 1
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
