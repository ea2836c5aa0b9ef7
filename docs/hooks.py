"""What the site takes from elsewhere in the repository when it is built, so that nothing is written down twice.

Files outside docs/ become pages, and `<!-- include README.md#install -->` becomes what that section of that file says.
`<!-- settings -->`, `<!-- errors -->` and `<!-- commands -->` become what the code says of itself. A link to a file of
the repository leads to its page, and code that is the name of something documented leads to it.
"""

import ast
import inspect
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import SecretStr

from nemovlm import errors
from nemovlm.settings import Settings

ROOT = Path(__file__).parents[1]

PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "backend/nemovlm/pocket/MODEL_CARD.md": "pocket.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "training/pocket/README.md": "training.md",
}
"""Files outside docs/, and what they are called in the site."""

SECTIONS = {"errors": "errors.md", "models": "models.md", "settings": "settings.md"}
"""Where links to sections of README lead; others lead to the first page."""

_SOURCES = {page: source for source, page in PAGES.items()}
_ERRORS = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)
}


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links to files into links to pages, and put in what is included or generated."""
    here = page.file.src_uri
    markdown = _relinked(markdown, _SOURCES.get(here, f"docs/{here}"), here)
    markdown = re.sub(r"<!-- include (\S+)#(\S+) -->", lambda match: _section(match[1], match[2], here), markdown)
    for name, make in {"settings": _settings, "errors": _errors, "commands": _commands}.items():
        if (marker := f"<!-- {name} -->") in markdown:
            markdown = markdown.replace(marker, "\n".join(make()))
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """Make links of names in code, unless they stand in a link, a heading or a block of code."""
    names = dict(_names())

    def link(match: re.Match[str]) -> str:
        if not (identifier := names.get(match["name"])):
            return match[0]
        return f'<autoref identifier="{identifier}" optional>{match[0]}</autoref>'

    return re.sub(r"<(a|autoref|pre|h[1-6])\b.*?</\1>|<code>(?P<name>[\w.]+)</code>", link, html, flags=re.DOTALL)


def _names() -> Iterator[tuple[str | None, str]]:
    """Yield the names of what is documented, short and whole, with the identifier of each.

    Short ones only where they are no words: `serve` is a command as well.
    """
    identifiers = [f"nemovlm.errors.{name}" for name in _ERRORS]
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        identifiers += re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    for identifier in identifiers:
        yield identifier, identifier
        if not (name := identifier.rpartition(".")[2]).isalpha() or not name.islower():
            yield name, identifier


def _section(source: str, name: str, page: str) -> str:
    """Return a section of a file without its heading: what comes before the next one of the first or second level."""
    found: list[str] | None = None
    fenced = False
    for line in (ROOT / source).read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        if not fenced and (heading := re.fullmatch("##? (.+)", line)):
            if found is not None:
                break
            if re.sub(r"\W+", "-", heading[1].lower()) == name:
                found = []
        elif found is not None:
            found.append(line)
    if found is None:
        raise PluginError(f"{page} includes {source}#{name}, but {source} has no such section")
    diagram = r"```mermaid\n.*?\n```\n?"  # what draws it would be fetched by the reader's browser
    return _relinked(re.sub(diagram, "", "\n".join(found), flags=re.DOTALL), source, page)


def _relinked(markdown: str, source: str, page: str) -> str:
    """Return the text of `source` with links as `page` needs them. One to a file that is no page becomes its text."""

    def link(match: re.Match[str]) -> str:
        text, (path, mark, name) = match["text"], (match["target"] or "").partition("#")
        if not path or "://" in path:  # or it is code
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target == "README.md":
            goal, mark, name = SECTIONS.get(name, "index.md"), "", ""
        elif target in PAGES:
            goal = PAGES[target]
        elif target.startswith("docs/"):
            goal = target.removeprefix("docs/")
        else:
            return text
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(page) or '.')}{mark}{name})"

    code = r"^```.*?^```|`[^`\n]+`"
    links = r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<target>[^)\s]+)\)"
    return re.sub(f"{code}|{links}", link, markdown, flags=re.DOTALL | re.MULTILINE)


def _settings() -> Iterator[str]:
    """Yield a section for every setting: type, default, variable, and what its docstring says."""
    documented = griffe.load("nemovlm.settings", search_paths=[ROOT / "backend"])["Settings"]
    classes = [documented, *documented.mro()]
    for name, field in Settings.model_fields.items():
        if name == "clock":  # for tests, and no setting to its users
            continue
        default = "not set" if field.default is None else f"`{field.default}`"
        variable = field.validation_alias.choices[0] if field.validation_alias else f"NEMOVLM_{name.upper()}"
        title = variable if field.validation_alias else name  # a key that is no argument
        facts = {
            "Type": ", ".join([_type(field.annotation), *_limits(field.metadata)]),
            "Default": default,
            "Environment": "not there" if field.annotation is Any else f"`{variable}`",
        }
        yield f"\n## `{title}` {{ #{title} }}\n"
        yield from (f"<span>{label}: {fact}</span>" for label, fact in facts.items())
        yield "{ .facts }\n"
        docstrings = [found.members[name].docstring for found in classes if name in found.members]
        yield next((docstring.value for docstring in docstrings if docstring), "")


def _limits(metadata: list[Any]) -> Iterator[str]:
    for bound, words in {"ge": "at least", "gt": "more than", "le": "at most"}.items():
        yield from (f"{words} {getattr(limit, bound)}" for limit in metadata if hasattr(limit, bound))


def _type(annotation: Any) -> str:
    if get_origin(annotation) in {Union, UnionType}:
        return " or ".join(_type(kind) for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation is Any:
        return "an object"
    if annotation is SecretStr:
        return "`str`"
    name = str(annotation) if isinstance(annotation, GenericAlias) else annotation.__name__
    return f"`{re.sub('[a-z]+[.]', '', name)}`"


def _errors() -> Iterator[str]:
    """Yield the docstring of `nemovlm.errors`, its tree as a list, and each class."""
    for line in inspect.getdoc(errors).splitlines():
        if branch := re.fullmatch(r"    ([│├└─ ]*)(\w+)(?: +(.*?))?", line):
            yield f"{' ' * len(branch[1])}- `{branch[2]}`{f': {branch[3]}' if branch[3] else ''}"
        else:
            yield line
    options = "{show_bases: true, show_root_full_path: false, members: []}"
    for name in _ERRORS:
        yield f"\n::: nemovlm.errors.{name}\n    options: {options}\n"


def _commands() -> Iterator[str]:
    """Yield what typer makes of the commands, in Markdown, without its own first heading."""
    command = [sys.executable, "-m", "typer", "nemovlm.cli.app", "utils", "docs", "--name", "nemovlm"]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - it is our own
    yield made.partition("\n")[2].replace("NEMOVLM_<NAME>", "`NEMOVLM_<NAME>`")  # in HTML it would be a tag


class Fields(griffe.Extension):
    """Shows a field that is a call of pydantic's `Field` by its default, and its description as its docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: object) -> None:
        """Take both from the arguments of the call."""
        if isinstance(attr.value, griffe.ExprCall) and attr.value.canonical_path.endswith("Field"):
            arguments = {
                entry.name: entry.value for entry in attr.value.arguments if isinstance(entry, griffe.ExprKeyword)
            }
            attr.value = arguments.get("default")
            if attr.docstring is None and "description" in arguments:
                attr.docstring = griffe.Docstring(ast.literal_eval(str(arguments["description"])), parent=attr)
