"""`NemoVLMEmbeddings`: the framework's own standard tests, every door, caches, and wherever Python may run."""

import asyncio
import base64
import copy
import json
import multiprocessing
import pickle
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.storage import LocalFileStore
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.runnables.config import run_in_executor
from langchain_core.stores import BaseStore, InMemoryByteStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from langchain_nemovlm import NemoVLMEmbeddings
from nemovlm import Embedder, Passage
from nemovlm.errors import ConfigurationError, ImageError, InputError
from nemovlm.images import encode_jpeg, encode_png, is_data_url
from tests.support.checkpoints import case_image

Door = Callable[..., Awaitable[Any]]

ICON = encode_png(case_image("icon"))
PHOTO = encode_jpeg(case_image("square"), longest_edge=64)


def data_url(content: bytes = ICON, head: str = "image/png;base64") -> str:
    return f"data:{head},{base64.b64encode(content).decode()}"


# The framework's standard tests, which want one base class each


class Pocket:
    """What they make: the pocket model, a checkpoint in a folder, and what a server has."""

    params: ClassVar[dict[str, Any]] = {"model": "nemovlm/pocket"}

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return NemoVLMEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return self.params


class Local(Pocket):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _this_folder(cls, vl_folder: Path) -> None:
        cls.params = {"model": str(vl_folder)}


class Remote(Pocket):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _this_server(cls, served_vl: str) -> None:
        cls.params = {"model": "tiny-vl", "base_url": served_vl}

    @pytest.fixture
    def model(self) -> Iterator[Embeddings]:
        made = NemoVLMEmbeddings(**self.params)
        with made.embedder:  # connections that are not closed are warned about
            yield made


class TestPocketUnit(Pocket, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"NEMOVLM_MODEL": "nemovlm/pocket"}, {}, {}  # without a model, the constructor raises


class TestPocketIntegration(Pocket, EmbeddingsIntegrationTests):
    pass


class TestLocalUnit(Local, EmbeddingsUnitTests):
    pass


class TestLocalIntegration(Local, EmbeddingsIntegrationTests):
    pass


class TestRemoteUnit(Remote, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"NEMOVLM_BASE_URL": self.params["base_url"]}, {}, {"available_models": ["tiny-vl"]}


class TestRemoteIntegration(Remote, EmbeddingsIntegrationTests):
    pass


# What is embedded as what


@pytest.fixture(scope="module")
def embeddings(vl_folder: Path) -> NemoVLMEmbeddings:
    return NemoVLMEmbeddings(model=str(vl_folder), truncate="END")


async def test_every_door_gives_the_vectors_of_the_embedder(
    embeddings: NemoVLMEmbeddings, vl: Embedder, call: Door
) -> None:
    """Texts are passages, queries are queries, images are images, pairs are pairs: in plain lists of floats."""
    image, other = case_image("square"), case_image("icon")
    pair = Passage(text="a", image=image)
    for method, argument, expected in (
        ("embed_documents", ["a", "b"], vl.embed(["a", "b"])),
        ("embed_query", "a", vl.embed_query("a")),
        ("embed_image", [image, other], vl.embed([image, other])),
        ("embed_images", [image, other], vl.embed([image, other])),
        ("embed_image_query", image, vl.embed([image])[0]),
        ("embed_passages", [pair, "b", image], vl.embed([pair, "b", image])),
    ):
        vectors = await call(embeddings, method, argument)
        assert np.abs(np.array(vectors) - expected).max() <= 1e-5
        for vector in vectors if expected.ndim == 2 else [vectors]:
            assert type(vector) is list
            assert {type(component) for component in vector} == {float}


async def test_images_come_in_every_form(embeddings: NemoVLMEmbeddings, tmp_path: Path, call: Door) -> None:
    """A path as str or Path, a file URL, a data URL, bytes, an open file and a Pillow image are the same image."""
    image = case_image("square")
    file = tmp_path / "a page.png"
    file.write_bytes(png := encode_png(image))
    used = BytesIO(png)
    used.read(10)
    references = [str(file), file, file.as_uri(), data_url(png), png, used, image]
    vectors = np.array(await call(embeddings, "embed_image", uris=references))
    assert np.abs(vectors - vectors[0]).max() <= 1e-6
    with pytest.raises(ImageError, match="are not fetched"):
        await call(embeddings, "embed_image", ["https://example.com/page.png"])


async def test_nothing_is_asked_about_nothing(call: Door) -> None:
    """An empty list gives an empty list, even where no server answers."""
    nowhere = NemoVLMEmbeddings(base_url="http://127.0.0.1:9/v1", max_retries=0)
    for method in ("embed_documents", "embed_image", "embed_images", "embed_passages"):
        assert await call(nowhere, method, []) == []


class Untyped:
    """No image, no text."""


@pytest.mark.parametrize(
    ("method", "argument", "words"),
    [
        ("embed_documents", "a text", "takes a list of texts, not a str"),
        ("embed_documents", ("a",), "takes a list of texts, not a tuple"),
        ("embed_documents", ["a", 3], "item 1: embed_documents takes texts, not a int"),
        ("embed_query", 3, "a query is a text, not a int"),
        ("embed_image", "x.png", "pass a list of images, not a single str"),
        ("embed_image", Path("x.png"), "pass a list of images, not a single"),
        ("embed_images", ICON, "pass a list of images, not a single bytes"),
        ("embed_images", case_image("icon"), "pass a list of images, not a single Image"),
        ("embed_passages", "a text", "pass a list of items, not a single str"),
        ("embed_passages", Passage("a text"), "pass a list of items, not a single Passage"),
        ("embed_image", BytesIO(ICON), "pass a list of images, not a single"),
        ("embed_image", [Untyped()], "Untyped"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("embed_") else "",
)
async def test_what_is_no_list_of_the_right_things(
    embeddings: NemoVLMEmbeddings, method: str, argument: object, words: str, call: Door
) -> None:
    """A single item in place of a list, or an item of another type, is an InputError, which is a ValueError."""
    with pytest.raises(InputError, match=words):
        await call(embeddings, method, argument)


@pytest.mark.parametrize(
    ("content", "head"),
    [
        (ICON, "image/png;base64"),
        (ICON, "image/png;charset=utf-8;base64"),
        (PHOTO, "image/jpeg;name=a.jpg;charset=utf-8;base64"),
        (PHOTO, "image/jpeg;base64"),
    ],
)
async def test_a_document_that_is_a_data_url_is_that_image(
    embeddings: NemoVLMEmbeddings, vl: Embedder, content: bytes, head: str, call: Door
) -> None:
    """Whatever parameters it has; the texts beside it stay texts, and so does a query."""
    url = data_url(content, head)
    vectors = await call(embeddings, "embed_documents", ["a", url])
    assert np.abs(np.array(vectors) - vl.embed(["a", content])).max() <= 1e-5
    assert await call(embeddings, "embed_query", url) == embeddings.embedder.embed_query(url).tolist()


async def test_data_urls_as_people_write_them(embeddings: NemoVLMEmbeddings, vl: Embedder, call: Door) -> None:
    """Broken into lines, in capitals, with blanks, without padding, in the alphabet of URLs: all are that image."""
    payload = base64.b64encode(ICON).decode()
    lines = "\r\n".join(payload[start : start + 76] for start in range(0, len(payload), 76))
    safe = base64.urlsafe_b64encode(ICON).decode().rstrip("=")
    texts = [
        f" {data_url()}\n",
        f"DATA:Image/PNG;Base64,{payload}",
        f"data:image/png;charset=utf-8;base64, {payload}",
        f"data:image/png;base64,{lines}",
        f"data:image/png;base64,{safe}",
        f"data:image/png;base64,{quote(payload, safe='')}",
    ]
    for method in ("embed_documents", "embed_image"):
        vectors = await call(embeddings, method, texts)
        assert np.abs(np.array(vectors) - vl.embed([ICON] * len(texts))).max() <= 1e-5


@contextmanager
def closed() -> Iterator[None]:
    """Whoever opens a file by its path in here, fails."""

    def forbidden(*_: object, **__: object) -> None:
        raise RuntimeError("something was opened")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "read_bytes", "exists", "is_file"):
            patch.setattr(Path, name, forbidden)
        yield


async def test_everything_else_is_a_text(
    embeddings: NemoVLMEmbeddings, vl: Embedder, tmp_path: Path, call: Door
) -> None:
    """A data URL with anything around it or without base64, and the name of a file: nothing is opened or fetched."""
    file = tmp_path / "x.png"
    file.write_bytes(ICON)
    payload = base64.b64encode(ICON).decode()
    texts = [
        f"See {data_url()}",
        f"{data_url()} is our logo!",
        f"{data_url()}{data_url()}",
        f"data:image/png,{payload}",
        f"data:text/plain;base64,{payload}",
        "data:image/png;base64,",
        f"![]({data_url()})",
        payload,
        str(file),
        file.as_uri(),
        "http://127.0.0.1:9/x.png",
        f"![x]({file})",
    ]
    expected = vl.embed(texts, truncate="END")
    with closed():
        vectors = await call(embeddings, "embed_documents", texts)
    assert np.abs(np.array(vectors) - expected).max() <= 1e-5


AROUND = st.one_of(st.text(max_size=20), st.sampled_from([" ", "\n", "=", ";", "data:", "\x00", "![x](", ")"]))
NAMES = st.sampled_from(["/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:9/x.png", "x.png", "~/x.png"])


@settings(deadline=None)  # the first of all imports what it needs
@given(
    st.one_of(
        st.text().filter(lambda text: not is_data_url(text)),
        st.builds("{}{}{}".format, AROUND, NAMES, AROUND),
        st.tuples(AROUND, AROUND)
        .filter(lambda around: "".join(around).strip())
        .map(lambda around: around[0] + data_url() + around[1]),
        st.text(max_size=20)
        .filter(lambda head: "base64" not in head.lower())
        .map(lambda head: f"data:image/{head},AAAA"),
    )
)
def test_no_text_is_taken_for_an_image(text: str) -> None:
    """Only what is wholly a data URL is: any other text reaches the embedder as it is, without an image."""
    sent: list[Passage] = []

    def embed(_: Embedder, items: Sequence[Passage]) -> Iterator[object]:
        sent.extend(items)
        return iter(())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "embed", embed)
        for folder in (None, "/etc"):
            NemoVLMEmbeddings(model="nemovlm/pocket", image_dir=folder).embed_documents([text])
    assert sent == [Passage(text=text)] * 2


@pytest.mark.parametrize(
    "url",
    [
        data_url(b"only words, no picture " * 9),
        data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 3, "image/svg+xml;base64"),
        data_url(ICON[:60]),
        data_url().rstrip("=")[:-1],
    ],
    ids=["words", "SVG", "cut off", "bad padding"],
)
async def test_a_data_url_of_no_image(embeddings: NemoVLMEmbeddings, url: str, call: Door) -> None:
    """It is an error that names the item, and holds nothing of what was in it."""
    for method, argument, item in (("embed_documents", ["a", url], "item 1"), ("embed_image", [url], "item 0")):
        with pytest.raises(ImageError, match=f"^{item}: ") as caught:
            await call(embeddings, method, argument)
        assert url[40:60] not in f"{caught.value} {caught.value.__cause__!r}"


# The object


def test_keys_stay_secret(vl_folder: Path) -> None:
    """What is sent to servers alone is in no repr, no dump, and nothing that LangChain serialises."""
    secrets = ("nvapi-secret", "header-secret", "proxy-secret")
    made = NemoVLMEmbeddings(
        model=str(vl_folder),
        api_key=secrets[0],
        headers={"Authorization": secrets[1]},
        proxy=f"http://u:{secrets[2]}@127.0.0.1:9",
    )
    shown = repr(made) + str(made) + dumps(made) + str(made.model_dump()) + made.model_dump_json() + repr(made.embedder)
    assert not [secret for secret in secrets if secret in shown]
    copied = pickle.loads(pickle.dumps(made))
    assert copied.api_key.get_secret_value() == secrets[0]
    assert copied.embedder.settings == made.embedder.settings


@pytest.mark.parametrize("wrong", [{"api_ky": "nvapi-secret"}, {"headers": "nvapi-secret"}], ids=str)
def test_errors_of_arguments_show_no_key(wrong: dict[str, Any]) -> None:
    """Nor is a key in what is said of a misspelt argument."""
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        NemoVLMEmbeddings(model="nemovlm/pocket", **wrong)
    assert "nvapi-secret" not in str(caught.value)


COPIES: dict[str, Callable[[NemoVLMEmbeddings], NemoVLMEmbeddings]] = {
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "JSON": lambda made: NemoVLMEmbeddings.model_validate_json(made.model_dump_json()),
    "again": lambda made: NemoVLMEmbeddings(**made.model_dump()),
}


@pytest.fixture(scope="module")
def chosen(vl_folder: Path) -> NemoVLMEmbeddings:
    """Embeddings with fields of every type that a dump holds."""
    return NemoVLMEmbeddings(
        model=str(vl_folder), truncate="END", dimensions=64, timeout=7.5, verify=False, image_dir="pictures"
    )


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_give_the_same_vectors(
    chosen: NemoVLMEmbeddings, copied: Callable[[NemoVLMEmbeddings], NemoVLMEmbeddings]
) -> None:
    """Through pickle, copy and JSON, fields and vectors stay what they were."""
    other = copied(chosen)
    assert other.model_dump() == chosen.model_dump()
    assert other.embedder.settings == chosen.embedder.settings
    assert other.embed_query("a") == chosen.embed_query("a")
    assert len(other.embed_query("a")) == 64


@pytest.mark.parametrize("name", ["pickle", "deepcopy", "JSON", "again"])
def test_objects_with_the_same_fields_are_equal(chosen: NemoVLMEmbeddings, name: str) -> None:
    """Equality and hash are those of the fields."""
    other = COPIES[name](chosen)
    assert (other, hash(other)) == (chosen, hash(chosen))


def test_a_copy_with_another_field(chosen: NemoVLMEmbeddings) -> None:
    """`model_copy(update=...)` gives an object that does what its fields say."""
    assert len(chosen.model_copy(update={"dimensions": 32}).embed_query("a")) == 32


def test_unknown_and_wrong_arguments_fail_at_once() -> None:
    """Nothing is silently ignored, and nothing changes afterwards."""
    for wrong in ({"modality": "image"}, {"page_modality": "both"}, {"cache": 3}, {"dimensions": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NemoVLMEmbeddings(model="nemovlm/pocket", **wrong)
    with pytest.raises(ConfigurationError, match="did you mean 'nemovlm/pocket'"):
        NemoVLMEmbeddings(model="nemovlm/poket")
    with pytest.raises(ConfigurationError, match="no model was chosen"):
        NemoVLMEmbeddings()
    with pytest.raises(ValidationError, match="frozen"):
        NemoVLMEmbeddings(model="nemovlm/pocket").dimensions = 32  # type: ignore[misc]


def test_what_is_not_given_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, vl_folder: Path) -> None:
    """Every knob, the key as well; an argument beats the environment."""
    for name, value in {"MODEL": str(vl_folder), "API_KEY": "from-outside", "DIMENSIONS": "32"}.items():
        monkeypatch.setenv(f"NEMOVLM_{name}", value)
    made = NemoVLMEmbeddings()
    settings = made.embedder.settings
    assert settings.api_key
    assert settings.api_key.get_secret_value() == "from-outside"
    assert len(made.embed_query("a")) == 32
    assert len(NemoVLMEmbeddings(dimensions=64).embed_query("a")) == 64


async def test_one_argument_makes_it_remote(embeddings: NemoVLMEmbeddings, served_vl: str, call: Door) -> None:
    """The same vectors come from a server, and from the names that NVIDIA's own client has for the arguments."""
    remote = NemoVLMEmbeddings(model="tiny-vl", base_url=served_vl)
    peer = NemoVLMEmbeddings(
        model="tiny-vl", nvidia_base_url=served_vl, nvidia_api_key="k", default_headers={"X-A": "b"}, verify_ssl=False
    )
    settings = peer.embedder.settings
    assert (settings.headers, settings.verify, peer.api_key.get_secret_value()) == ({"X-A": "b"}, False, "k")  # type: ignore[union-attr]
    image = case_image("portrait")
    with remote.embedder, peer.embedder:
        for method, argument in (
            ("embed_documents", ["a", "the cat", data_url()]),
            ("embed_query", "a"),
            ("embed_image", [image, ICON]),
            ("embed_passages", [Passage("a", image)]),
        ):
            expected = np.array(await call(embeddings, method, argument))
            for other in (remote, peer):
                assert np.abs(np.array(await call(other, method, argument)) - expected).max() <= 1e-5


# Byte stores as caches


@pytest.fixture(params=["LocalFileStore", "InMemoryByteStore", "RedisStore"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStore[str, bytes]:
    if request.param == "LocalFileStore":
        return LocalFileStore(tmp_path / "vectors")
    if request.param == "InMemoryByteStore":
        return InMemoryByteStore()
    from fakeredis import FakeRedis
    from langchain_community.storage import RedisStore

    return RedisStore(client=FakeRedis())


ASKED = (
    ("embed_documents", ["a", "b", data_url()]),
    ("embed_query", "a"),
    ("embed_image", [case_image("square"), PHOTO]),
    ("embed_passages", [Passage("a", ICON), Passage("b", ICON)]),
)


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
async def test_a_byte_store_keeps_vectors(
    store: BaseStore[str, bytes], vl_folder: Path, vl: Embedder, call: Door
) -> None:
    """Texts, queries, images and pairs come from it the second time, to the bit, and a query never as a passage."""
    first, again = (NemoVLMEmbeddings(model=str(vl_folder), cache=store) for _ in range(2))
    made = [await call(first, *asked) for asked in ASKED]
    assert len(list(store.yield_keys())) == 8
    assert [await call(again, *asked) for asked in ASKED] == made
    assert (again.embedder.usage.items, again.embedder.usage.tokens) == (8, 0)
    assert first.embedder.usage.tokens > 0
    assert np.abs(np.array(made[0][:2]) - vl.embed(["a", "b"])).max() <= 1e-5
    assert np.abs(np.array(made[1]) - vl.embed_query("a")).max() <= 1e-5
    assert np.abs(np.array(made[0][0]) - made[1]).max() > 1e-3


def test_models_share_no_vectors(vl_folder: Path, text_folder: Path) -> None:
    """Another model or another number of dimensions computes its own, in the same store."""
    store = InMemoryByteStore()
    for fields in ({"model": vl_folder}, {"model": vl_folder, "dimensions": 64}, {"model": text_folder}):
        for fresh in (True, False):
            made = NemoVLMEmbeddings(
                **{name: str(v) if isinstance(v, Path) else v for name, v in fields.items()}, cache=store
            )
            assert len(made.embed_documents(["a"])[0]) == fields.get("dimensions", 128)
            assert (made.embedder.usage.tokens > 0) == fresh


class Down(BaseStore[str, bytes]):
    """A store whose server is gone."""

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        raise ConnectionError

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        raise ConnectionError

    def mdelete(self, keys: Sequence[str]) -> None:
        raise ConnectionError

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        raise ConnectionError


async def test_a_store_that_fails_costs_no_vector(
    vl_folder: Path, vl: Embedder, call: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """It is as if there were none, with a warning."""
    made = NemoVLMEmbeddings(model=str(vl_folder), cache=Down())
    assert np.abs(np.array(await call(made, "embed_documents", ["a", "b"])) - vl.embed(["a", "b"])).max() <= 1e-5
    assert {record.message for record in caplog.records} == {
        "the cache cannot be read: ConnectionError",
        "the cache cannot be written: ConnectionError",
    }


# Wherever Python runs


def test_another_process_fills_the_store(vl_folder: Path, tmp_path: Path, vl: Embedder) -> None:
    """Pickled into a fresh process it works there, and what it left in a LocalFileStore is not computed here."""
    made = NemoVLMEmbeddings(model=str(vl_folder), cache=LocalFileStore(tmp_path))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        there = pool.submit(made.embed_documents, ["a", data_url()]).result()
    assert np.abs(np.array(there) - vl.embed(["a", ICON])).max() <= 1e-5
    assert made.embed_documents(["a", data_url()]) == there
    assert made.embedder.usage.tokens == 0


async def test_inside_a_running_loop(embeddings: NemoVLMEmbeddings, vl: Embedder) -> None:
    """Sync methods may be called from a coroutine, or through LangChain's executor, and 200 calls at once are right."""
    expected = vl.embed_query("a")
    assert np.abs(np.array(embeddings.embed_query("a")) - expected).max() <= 1e-5
    assert np.abs(np.array(await run_in_executor(None, embeddings.embed_query, "a")) - expected).max() <= 1e-5
    texts = [f"number {number}" for number in range(200)]
    vectors = await asyncio.gather(*(embeddings.aembed_query(text) for text in texts))
    assert np.abs(np.array(vectors) - vl.embed_queries(texts)).max() <= 1e-5


def test_in_threads_and_loop_after_loop(embeddings: NemoVLMEmbeddings, vl: Embedder) -> None:
    """Sixteen threads share one object, sync or each with loops of its own."""

    def ask(number: int) -> list[list[float]]:
        text = f"number {number}"
        asked = [embeddings.embed_query(text)]
        return asked + [asyncio.run(embeddings.aembed_query(text)) for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        vectors = np.array(list(pool.map(ask, range(64))))
    expected = vl.embed_queries([f"number {number}" for number in range(64)])
    assert np.abs(vectors - expected[:, None]).max() <= 1e-5


CELLS = (
    "from langchain_nemovlm import NemoVLMEmbeddings\nembeddings = NemoVLMEmbeddings(model='nemovlm/pocket')",
    "sync = embeddings.embed_query('bread')",
    "same = await embeddings.aembed_query('bread')",
    "import asyncio\nmany = await asyncio.gather(*(embeddings.aembed_query('bread') for _ in range(9)))",
    "documents = embeddings.embed_documents(['bread', 'stone'])",
    "print(sync == same, len(many), len(documents), len(sync))",
)


def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells with sync calls and cells with `await` work, in a kernel of this interpreter."""
    import nbformat
    from nbclient import NotebookClient

    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    kernel = tmp_path / "kernels" / "tests" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "tests", "language": "python"}))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(
        notebook, kernel_name="tests", timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert notebook.cells[-1].outputs[0].text == "True 9 2 2048\n"
