"""What people see of an answer."""

from hypothesis import given
from hypothesis import strategies as st

from nemovlm.cli.report import snippet


def test_the_snippet_is_where_the_answer_is() -> None:
    """The words of the question lead to the part of a long text that has most of them."""
    text = "word " * 300 + "the bicycle allowance is 900 euros a year for commuting by bicycle " + "other " * 300
    part = snippet(text, "How much is the bicycle allowance for commuting?", 60)
    assert part.startswith("… bicycle allowance is 900 euros")
    assert part.endswith(" …")


@given(text=st.text(max_size=400), question=st.text(max_size=60), length=st.integers(1, 200))
def test_a_snippet_is_a_part_of_the_text(text: str, question: str, length: int) -> None:
    """Never longer than asked for, apart from its dots, and never anything that is not in the text."""
    flat = " ".join(text.split())
    part = snippet(text, question, length).removeprefix("… ").removesuffix(" …")
    assert len(part) <= length
    assert part in flat


def test_short_texts_are_whole() -> None:
    """Nothing is cut from what fits, and nothing comes of nothing."""
    assert snippet("A short\ntext.", "x") == "A short text."
    assert snippet("", "x") == ""
