"""The exact strings that are embedded, and what is done to special tokens in somebody's text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemovlm.inputs import Role
from nemovlm.models.llama_nemotron.prompts import escape_special_tokens, prompt

SPECIAL = ("<image>", "<img>", "</img>", "<IMG_CONTEXT>", "<|begin_of_text|>", "<|eot_id|>", "<|reserved_9|>")
ANY_SPECIAL = re.compile(r"<image>|</?img>|<IMG_CONTEXT>|<\|[A-Za-z0-9_]+\|>")
# Texts that are full of brackets, tokens and pieces of them.
TEXTS = st.lists(st.sampled_from([*SPECIAL, "<", ">", "<|", "|>", "/", "img", "image", " ", "ö"]) | st.text()).map(
    "".join
)


@pytest.mark.parametrize(
    ("role", "text", "image", "expected"),
    [
        ("query", "how warm?", False, "query: how warm?"),
        ("query", "how warm?", True, "query: <image> how warm?"),
        ("query", "", True, "query: <image> "),
        ("passage", "It was warm.", False, "passage: It was warm."),
        ("passage", "It was warm.", True, "passage: <image> It was warm."),
        ("passage", "", True, "passage: <image> "),
        ("passage", "", False, "passage: "),
        ("passage", "  two\n lines ", False, "passage:   two\n lines "),
    ],
)
def test_prompts_are_those_of_the_training(role: Role, text: str, image: bool, expected: str) -> None:
    """Role, image and text give the reference's string, white space included."""
    parts = prompt(role, text, image=image)
    assert parts.prefix + ("<image>" if image else "") + parts.text == expected


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("token", SPECIAL)
def test_a_prompt_holds_no_token_of_its_text(token: str, image: bool) -> None:
    """A special token spelled out in the text is plain text in the prompt."""
    assert prompt("passage", f"about {token}", image=image).text.lstrip() == f"about < {token[1:]}"


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_lose_their_meaning_by_one_space(token: str) -> None:
    """A space behind the bracket is all that changes, as often as the token comes."""
    assert escape_special_tokens(f"a{token}b {token}{token}") == f"a< {token[1:]}b < {token[1:]}< {token[1:]}"


@pytest.mark.parametrize(
    "text",
    [
        *("a < b > c", "<html><body>", "<images>", "<IMAGE>", "<Img>", "img>", "<img", "<img src='x'>", "< image>"),
        *("<||>", "<|two words|>", "<|a-b|>", "<|open", "1 <| 2 |> 3", "", "plain", "äöü 漢字 \x00"),
    ],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    """What no tokenizer of the family takes for a special token is not touched."""
    assert escape_special_tokens(text) == text


@given(TEXTS)
def test_no_special_token_is_left(text: str) -> None:
    """Whatever a text is made of, no special token can be found in the result."""
    assert not ANY_SPECIAL.search(escape_special_tokens(text))


@given(TEXTS)
def test_neutralising_twice_is_neutralising_once(text: str) -> None:
    """Text that went through twice, as from a client and its server, is embedded alike."""
    assert escape_special_tokens(escape_special_tokens(text)) == escape_special_tokens(text)


@given(TEXTS)
def test_only_spaces_behind_brackets_are_added(text: str) -> None:
    """Without the added spaces the text is the one that came in."""
    assert escape_special_tokens(text).replace("< ", "<") == text.replace("< ", "<")


@given(st.text().filter(lambda text: "<" not in text))
def test_text_without_brackets_is_untouched(text: str) -> None:
    """No bracket, no change."""
    assert escape_special_tokens(text) == text
