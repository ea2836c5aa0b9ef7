"""The package as strangers get it: light, typed, and clear about what is missing."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from nemovlm.settings import EmbedderFields, Options, field_descriptions
from tests.support.once import once

ROOT = Path(__file__).parents[2]


def python(code: str, executable: str | Path = sys.executable) -> str:
    done = subprocess.run([str(executable), "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_no_library() -> None:
    """`import nemovlm` loads itself and the standard library: it costs a small part of what starting Python costs."""
    code = (
        "import sys; before = set(sys.modules); import nemovlm; new = set(sys.modules) - before; "
        "print(sorted({name.partition('.')[0] for name in new} - sys.stdlib_module_names))"
    )
    assert python(code) == "['nemovlm']"


def test_the_light_names_need_no_heavy_library() -> None:
    """Settings, pages and embedders are made without torch, transformers or Lance."""
    code = (
        "import sys; from nemovlm import Embedder, Page, Passage, iter_pages; "
        "print(Embedder('nemovlm/pocket').space); "
        "print([name for name in ('torch', 'transformers', 'lance', 'langchain_core') if name in sys.modules])"
    )
    assert python(code).endswith("[]")


def test_every_public_name_is_there() -> None:
    """`dir(nemovlm)` lists what can be imported."""
    import nemovlm

    assert all(getattr(nemovlm, name) is not None for name in dir(nemovlm))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nemovlm.nothing  # noqa: B018 - the access is the test


def test_the_oldest_frameworks_are_tested() -> None:
    """scripts/oldest.txt, which `scripts/test` runs the adapters with, is what pyproject.toml allows."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "scripts" / "oldest.txt").read_text(), re.MULTILINE))
    for requirement in wanted["langchain"] + wanted["llamaindex"]:
        name, least = re.fullmatch(r"([\w-]+)>=([\d.]+),<[\d.]+", requirement).groups()  # type: ignore[union-attr]
        assert f"{tested[name]}.".startswith(f"{least}.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built through the sdist as a release is."""

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
        subprocess.run(command, check=True, capture_output=True)

    (built,) = once(tmp_path_factory, "dist", build).glob("*.whl")
    return built


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel and its base dependencies, and nothing else; returns its bin folder."""

    def install(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, str(wheel)], check=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"})

    return once(tmp_path_factory, "bare", install) / "bin"


def test_the_wheel_holds_what_it_should(wheel: Path) -> None:
    """Three packages with their type markers, the template and the pocket model, in at most 25 MB; no tests."""
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        *(f"{package}/py.typed" for package in ("nemovlm", "langchain_nemovlm", "llamaindex_nemovlm")),
        "nemovlm/pocket/model.safetensors",
        "nemovlm/pocket/processor_config.json",
        "nemovlm/pocket/MODEL_CARD.md",
        "nemovlm/cli/templates/answers.html",
    ):
        assert name in names
    tops = {name.split("/")[0] for name in names if not name.startswith("nemovlm-")}
    assert tops == {"nemovlm", "langchain_nemovlm", "llamaindex_nemovlm"}
    pocket = sum(item.compress_size for item in zipfile.ZipFile(wheel).infolist() if "/pocket/" in item.filename)
    assert pocket <= 25_000_000


PUBLIC_NAMES = {
    "nemovlm": "Embedder Field Hit ImageUrl NemoVLMError Page PageIndex Passage __version__ iter_pages",
    "nemovlm.embedder": "Description Progress Usage",
    "nemovlm.errors": "AuthenticationError CheckpointError ConfigurationError EngineError EngineUnavailableError "
    "ImageError ImageTooLargeError IndexStorageError InputError InputTooLongError MissingExtraError "
    "ModelNotServedError NemoVLMError PageIndexError PdfError PdfFormatError PdfPageError PdfPasswordError "
    "PdfSecurityError ProtocolError RateLimitedError RequestRefusedError ServerError SpaceMismatchError "
    "UnknownModelError",
    "nemovlm.images": "ImageSource",
    "nemovlm.index": "AddReport",
    "nemovlm.inputs": "Embeddable Modality OnError Role Truncate Vector",
    "nemovlm.models.tiling": "Tiling",
    "nemovlm.parity": "Comparison Difference Parity compare open_engines",
    "nemovlm.pdf": "PdfSource",
    "nemovlm.server": "ServerOptions make_app serve",
    "langchain_nemovlm": "NemoVLMEmbeddings NemoVLMPDFLoader NemoVLMPDFParser NemoVLMPageIndexRetriever "
    "NemoVLMPageRetriever page_to_content_block pages_to_message",
    "langchain_nemovlm.embeddings": "ImageReference",
    "llamaindex_nemovlm": "NemoVLMEmbedding NemoVLMPDFReader NemoVLMPageIndexRetriever NemoVLMPageParser",
    "llamaindex_nemovlm.embeddings": "ImageReference",
}
"""What 0.1.0 documented and exported, by module. Names may be added; one that goes breaks somebody's program."""


def test_the_wheel_has_every_public_name(wheel: Path, tmp_path: Path) -> None:
    """What people import by name is in the wheel under the names that it always had."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"for module, names in {PUBLIC_NAMES!r}.items():\n"
        "    found = importlib.import_module(module)\n"
        f"    assert found.__file__.startswith({str(tmp_path)!r}), found.__file__\n"
        "    print(*[f'{module}.{name}' for name in names.split() if not hasattr(found, name)])"
    )
    assert not python(code)


def test_exported_names_are_known() -> None:
    """`__all__` of the packages holds nothing that the list of public names lacks."""
    for package in ("nemovlm", "nemovlm.server", "langchain_nemovlm", "llamaindex_nemovlm"):
        assert set(import_module(package).__all__) == set(PUBLIC_NAMES[package].split())


def test_help_tells_every_setting() -> None:
    """`help(Embedder)` says of each of the 28 settings what it is, in the words of the settings themselves."""
    said = python("import pydoc; from nemovlm import Embedder; print(pydoc.plain(pydoc.render_doc(Embedder)))")
    flat = " ".join(said.replace("|", " ").split())
    settings = [name for name in EmbedderFields.model_fields if name != "model"]
    assert len(settings) == 28
    descriptions = field_descriptions()
    for name in settings:
        assert f"{name}: {descriptions[name]}" in flat


def test_arguments_are_settings() -> None:
    """What type checkers take for arguments of `Embedder` is what it takes."""
    assert Options.__annotations__.keys() == EmbedderFields.model_fields.keys() - {"model"}


def test_the_base_install_reads_pdfs(bare: Path, samples: Path) -> None:
    """Without any extra, pages come out of PDFs, and the command says what it needs."""
    code = f"import nemovlm; print(len(list(nemovlm.iter_pages({str(samples / 'staff-handbook.pdf')!r}))))"
    assert python(code, bare / "python") == "5"
    command = subprocess.run([str(bare / "nemovlm"), "models"], capture_output=True, text=True, check=False)
    assert command.returncode == 1
    assert command.stderr == "error: the nemovlm command needs more than the base install: pip install 'nemovlm[cli]'\n"


def test_the_base_install_embeds_on_a_server(bare: Path, served_vl: str) -> None:
    """Without any extra, texts and images become vectors on a server: torch is not needed for that."""
    code = (
        "import sys; from PIL import Image; from nemovlm import Embedder; "
        f"print(Embedder('tiny-vl', base_url={served_vl!r}).embed(['a', Image.new('RGB', (9, 9))]).shape)"
    )
    assert python(code, bare / "python") == "(2, 128)"


@pytest.mark.parametrize(
    ("code", "extra"),
    [
        ("from nemovlm import Embedder; Embedder('nemovlm/pocket').embed_query('x')", "local"),
        ("from nemovlm import Embedder; Embedder('nemovlm/pocket', engine='transformers').embed_query('x')", "local"),
        ("import nemovlm; nemovlm.PageIndex", "index"),
        ("import langchain_nemovlm", "langchain"),
        ("import llamaindex_nemovlm", "llamaindex"),
        ("from nemovlm.server import make_app", "server"),
    ],
)
def test_a_missing_extra_says_how_to_get_it(bare: Path, code: str, extra: str) -> None:
    """Every door that needs an extra names it."""
    caught = f"try:\n    {code}\nexcept ImportError as error:\n    print(error)"
    assert f"pip install 'nemovlm[{extra}]'" in python(caught, bare / "python")
