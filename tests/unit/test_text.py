"""`Page.text` is what is seen on a page: what stands apart is apart, and what is not seen, or no text, is not there."""

import unicodedata
import zlib
from contextlib import closing
from pathlib import Path

import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from nemovlm.pdf import iter_pages
from nemovlm.pdf.layers import LAYERS
from nemovlm.pdf.mentions import mentioned
from nemovlm.pdf.metadata import clean
from nemovlm.pdf.text import read_text
from tests.support.books import assemble, box, draw, write
from tests.support.reading import QUICK

TURNS = [0, 90, 180, 270]


def text_of(data: bytes) -> str:
    """The text of a PDF of one page."""
    (page,) = iter_pages(data, tiling=QUICK)
    return page.text


def show(text: str, x: float, y: float, turn: int = 0, size: int = 10) -> str:
    """The operators that draw a text at a place, turned counterclockwise."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    return f"BT /F {size} Tf {cos} {sin} {-sin} {cos} {x} {y} Tm ({text}) Tj ET "


def turned_page(turn: int, *placed: tuple[str, float, float], entries: str = "") -> bytes:
    """A page of 400 x 300 points that is turned to be read, with texts at places as they are seen (from below left)."""
    width, height = (400, 300) if turn % 180 == 0 else (300, 400)
    content = ""
    for text, x, y in placed:
        place = {0: (x, y), 90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}[turn]
        content += show(text, *place, turn=turn)
    return write((f"{box(0, 0, width, height)}/Rotate {turn}{entries}", content))


def stream(content: str, entries: str = "") -> str:
    """A stream, with what else its dictionary says."""
    return f"<<{entries}/Length {len(content)}>>stream\n{content}\nendstream"


def by_hand(*objects: str) -> bytes:
    """A PDF of these objects, counted from 1."""
    return assemble(*(body.encode() for body in objects))


# Cells and lines


@pytest.mark.parametrize("turn", TURNS)
def test_cells_of_a_row_are_apart(turn: int) -> None:
    """A number and the single digit in the cell beside it are two words, on turned pages too."""
    rows = [("200.01", "1"), ("400.01", "3"), ("600.01", "5"), ("7", "8")]
    placed = [(cell, 100 + 150 * x, 250 - 16 * y) for y, row in enumerate(rows) for x, cell in enumerate(row)]
    assert text_of(turned_page(turn, *placed)).split() == [cell for row in rows for cell in row]


@pytest.mark.parametrize("turn", TURNS)
def test_lines_are_apart_whichever_way_they_run(turn: int) -> None:
    """Lines that begin side by side, as those of sideways text do, each have a line of their own."""
    lines = ["Umbrellas first quarter", "Raincoats second quarter", "Galoshes third quarter"]
    starts = {0: (20, 250, 0, -16), 90: (100, 20, 16, 0), 180: (380, 50, 0, 16), 270: (200, 380, -16, 0)}
    x, y, right, up = starts[turn]
    content = "".join(show(line, x + right * n, y + up * n, turn) for n, line in enumerate(lines))
    assert sorted(text_of(write((box(0, 0, 400, 400), content))).split("\n")) == sorted(lines)


@settings(deadline=None)
@given(
    st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.lists(st.text("0123456789.ABCabc%", min_size=1, max_size=6), min_size=columns, max_size=columns),
            min_size=1,
            max_size=8,
        )
    ),
    st.sampled_from(TURNS),
)
def test_every_grid_of_cells_is_read_row_by_row(rows: list[list[str]], turn: int) -> None:
    """Whatever short cells say, each is a word of its own, in the order of rows."""
    placed = [(cell, 20 + 60 * x, 270 - 18 * y) for y, row in enumerate(rows) for x, cell in enumerate(row)]
    assert text_of(turned_page(turn, *placed)).split() == [cell for row in rows for cell in row]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("words", [0, 200], ids=["few words", "many words"])
@pytest.mark.parametrize("cropped", [False, True])
def test_digits_at_equal_distances_are_cells(turn: int, words: int, cropped: bool) -> None:
    """A row of a table that is drawn at once, with equal gaps, is no number that is spaced out."""
    rows = ["[(2) -3000 (1) -3000 (4)]TJ", "[(17) -3000 (8) -3000 (9)]TJ", "3 Tc (2024)Tj 0 Tc"]
    x, y, right, up = {0: (20, 250, 0, -16), 90: (100, 20, 16, 0), 180: (380, 50, 0, 16), 270: (200, 380, -16, 0)}[turn]
    drawn = "".join(show("", x + right * n, y + up * n, turn).replace("() Tj", row) for n, row in enumerate(rows))
    others = "".join(show("word", 20 + 40 * (n % 9), 5 + 9 * (n // 9), size=4) for n in range(words))
    outside = show("outside", 420, 150) if cropped else ""
    data = write((f"{box(0, 0, 500, 400)}/CropBox[0 0 410 400]", drawn + others + outside))
    seen = [word for word in text_of(data).split() if word != "word"]
    assert sorted(seen) == sorted(["2", "1", "4", "17", "8", "9", "2024"])


@pytest.mark.parametrize("turn", TURNS)
def test_the_crop_box_hides_text(turn: int) -> None:
    """Words outside the crop box are not seen, and not read; lines and cells inside stay apart."""
    outside = [("left", 10, 150), ("right", 360, 150), ("above", 150, 285), ("below", 150, 8)]
    inside = [("400.01", 100, 200), ("3", 250, 200), ("a second line", 100, 180)]
    crop = [60, 40, 340, 260] if turn % 180 == 0 else [40, 60, 260, 340]
    page = turned_page(turn, *outside[:2], *inside, *outside[2:], entries=f"/CropBox[{' '.join(map(str, crop))}]")
    assert text_of(page).split() == ["400.01", "3", "a", "second", "line"]
    assert text_of(page).endswith("\na second line")


def test_a_word_that_the_crop_box_cuts_is_read_as_far_as_it_is_seen() -> None:
    """Of a line that goes on outside, what is inside counts, and a word parted there is still one."""
    content = show("the embed-", 20, 200) + show("ding here, and what is outside", 20, 188)
    assert text_of(write((f"{box(0, 0, 400, 300)}/CropBox[0 0 67 300]", content))) == "the embedding here,"


# Hyphens at the end of a line


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("the embed-", "ding of pages", "the embedding of pages"),
        ("rules for COVID-", "19 in force", "rules for COVID-19 in force"),
        ("Anne Smith-", "Jones came", "Anne Smith-Jones came"),
        ("chest x-", "rays in colour", "chest x-rays in colour"),
        ("price-", "determining parts", "pricedetermining parts"),  # as far as a word is known, it might be "embedding"
        ("pages 110-", "112 and on", "pages 110- 112 and on"),
    ],
)
def test_hyphens_at_line_ends_stay_where_they_belong_to_the_word(first: str, second: str, word: str) -> None:
    """What was parted is whole, but before a digit or a capital, and behind one letter, the hyphen is the author's."""
    text = text_of(write((box(0, 0, 400, 300), show(first, 20, 200, size=20) + show(second, 20, 176, size=20))))
    assert " ".join(text.split()) == word


# What is no text


def coded(*lines: tuple[str, str]) -> bytes:
    """A page of lines in hexadecimal codes, each with a text of UTF-16 in hexadecimal for every code that has one."""
    fonts, content, objects = "", "", []
    for n, (codes, meanings) in enumerate(lines):
        pairs = [pair.split("=") for pair in meanings.split()]
        chars = " ".join(f"<{code}><{letter}>" for code, letter in pairs)
        space = "1 begincodespacerange <00> <ff> endcodespacerange"
        cmap = f"begincmap {space} {len(pairs)} beginbfchar {chars} endbfchar endcmap"
        fonts += f"/F{n}<</Type/Font/Subtype/Type1/BaseFont/Helvetica/ToUnicode {5 + n} 0 R>>"
        content += f"BT /F{n} 12 Tf 20 {250 - 20 * n} Td <{codes}> Tj ET "
        objects.append(stream(cmap))
    page = f"<</Type/Page/Parent 2 0 R{box(0, 0, 400, 300)}/Contents 4 0 R/Resources<</Font<<{fonts}>>>>>>"
    pages = "<</Type/Pages/Count 1/Kids[3 0 R]>>"
    return by_hand("<</Type/Catalog/Pages 2 0 R>>", pages, page, stream(content), *objects)


def test_a_text_layer_of_control_characters_is_none() -> None:
    """A font that does not say what its letters are leaves no text, and the page is embedded as a picture."""
    meanings = " ".join(f"{code:02x}=00{code - 0x40:02x}" for code in range(0x41, 0x5B))
    (page,) = iter_pages(coded(("4142434445464748494A4B4C4D4E4F", meanings)), tiling=QUICK)
    assert page.text == ""
    assert page.passage().modality == "image"


@pytest.mark.parametrize(
    "bullet", ["F0B7", "D83D", "DBFFDFFD", "0378"], ids=["private", "half", "private pair", "none"]
)
def test_a_bullet_in_private_use_goes_and_its_text_stays(bullet: str) -> None:
    """What symbol fonts have for bullets is left out of the text beside it."""
    assert text_of(coded(("42206F6E65", f"42={bullet}"), ("42206F7468657273", f"42={bullet}"))).split() == [
        "one",
        "others",
    ]


def test_letters_among_control_characters_are_no_text() -> None:
    """What happens to be a letter in a font that names none means nothing, if a third of all is none."""
    meanings = "41=0011 42=0012 43=0051 44=0041"
    assert text_of(coded(("4142434443444142", meanings))) == ""
    assert text_of(coded(("41434443444344", meanings))) == "QAQAQA"


@given(st.text())
def test_what_is_left_of_a_string_is_text(text: str) -> None:
    """No control character but newline and tab, nothing private, unassigned or half a character gets through."""
    assert not {unicodedata.category(letter) for letter in clean(text) if letter not in "\n\t"} & {
        "Cc",
        "Cn",
        "Co",
        "Cs",
    }
    assert clean(clean(text)) == clean(text)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="\ufffd")))
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    """Letters of all scripts, marks and signs are not touched, with a stray control character in them neither."""
    assert clean(text) == text.strip()
    assert clean(f"{text}, and so on") == clean(f"{text}\x03, and so on\0\0\0\0\0\0\0\0")


# Annotations


def fields(canvas: Canvas) -> None:
    """A form that somebody has filled in."""
    form = canvas.acroForm
    canvas.drawString(50, 700, "Name of applicant:")
    form.textfield(name="name", value="Quintana", x=180, y=690, width=200, height=20)
    canvas.drawString(50, 660, "City:")
    form.choice(name="city", value="Rome", options=["Rome", "Oslo", "Lima"], x=180, y=650, width=200, height=20)
    canvas.drawString(50, 620, "Lost:")
    form.listbox(name="lost", value=["umbrella"], options=["hat", "umbrella"], x=180, y=590, width=100, height=50)
    canvas.drawString(50, 560, "Agreed")
    form.checkbox(name="agreed", checked=True, x=180, y=555)
    form.textfield(name="secret", value="hidden", x=180, y=500, annotationFlags="hidden")
    form.textfield(name="empty", value="", x=180, y=450)


def test_filled_fields_are_read_beside_their_labels() -> None:
    """What was filled in and chosen is read, and neither what was not chosen nor what is hidden."""
    assert text_of(draw(fields)).split("\n") == [
        "Name of applicant: Quintana",
        "City: Rome",
        "Lost: umbrella",
        "Agreed",
    ]


def annotated(
    *annotations: str, entries: str = "/AcroForm<</Fields[6 0 R]>>", content: str = "", more: tuple[str, ...] = ()
) -> bytes:
    """A page with annotations (from 6 on) and `more` objects; `{}` in entries is an appearance that says "seen"."""
    pages = "<</Type/Pages/Count 1/Kids[3 0 R]>>"
    font = "/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    numbers = " ".join(f"{6 + n} 0 R" for n in range(len(annotations)))
    page = f"<</Type/Page/Parent 2 0 R{box(0, 0, 400, 300)}/Contents 4 0 R{font}/Annots[{numbers}]>>"
    seen = stream(show("seen", 2, 6), f"/Type/XObject/Subtype/Form/BBox[0 0 200 20]{font}")
    bodies = (f"<</Type/Annot/Rect[150 245 350 265]{body.format('/AP<</N 5 0 R>>')}>>" for body in annotations)
    return by_hand(f"<</Type/Catalog/Pages 2 0 R{entries}>>", pages, page, stream(content), seen, *bodies, *more)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("/Subtype/FreeText/Contents(something else){}", "seen"),
        ("/Subtype/Stamp{}", "seen"),
        ("/Subtype/Watermark{}", "seen"),
        ("/Subtype/Widget/FT/Tx/T(a)/V(something else){}", "seen"),
        ("/Subtype/Widget/FT/Tx/T(a)/V(s een){}", "s een"),  # a comb: the letters are drawn one by one
        ("/Subtype/Widget/FT/Btn/Ff 65536/T(a){}", "seen"),  # the name of a button
        ("/Subtype/Widget/FT/Btn/T(a){}", ""),  # a tick
        ("/Subtype/Stamp/F 2{}", ""),
        ("/Subtype/FreeText/F 32{}", ""),
        ("/Subtype/Widget/FT/Tx/T(a)/F 2/V(hidden){}", ""),
        ("/Subtype/Text/Contents(a note){}", ""),
        ("/Subtype/Popup/Contents(a window){}", ""),
        ("/Subtype/Highlight/QuadPoints[150 265 350 265 150 245 350 245]/C[1 1 0]/Contents(a remark)", ""),
        ("/Subtype/Link", ""),
    ],
)
def test_what_annotations_show_is_read_and_what_they_hide_is_not(annotation: str, text: str) -> None:
    """Text boxes, stamps and fields say what they draw; notes, windows and hidden ones say nothing."""
    assert text_of(annotated(annotation)) == text


def test_a_text_box_without_an_appearance_is_read_if_it_is_drawn() -> None:
    """Some versions of PDFium draw it, and others do not: picture and text agree."""
    (page,) = iter_pages(annotated("/Subtype/FreeText/Contents(a remark)/DA(/Helv 12 Tf 0 g)"))
    dark = page.image.convert("L").getextrema()[0] < 128
    assert page.text == ("a remark" if dark else "")


def test_fields_that_pdfium_draws_by_itself_are_read() -> None:
    """A field without an appearance is drawn with its value, and so it is read."""
    form = "/AcroForm<</NeedAppearances true/Fields[6 0 R]/DA(/Helv 12 Tf 0 g)>>"
    field = "/Subtype/Widget/FT/Tx/T(a)/V(lost umbrella)/F 4/DA(/Helv 12 Tf 0 g)"
    assert text_of(annotated(field, entries=form)) == "lost umbrella"


@pytest.mark.parametrize("crop", [False, True])
def test_annotations_without_a_label_come_last(crop: bool) -> None:
    """A stamp somewhere on the page is read behind the text, and one outside the crop box is not."""
    content = show("an invoice", 20, 100) + show("its end", 20, 80)
    data = annotated("/Subtype/Stamp{}", "/Subtype/Popup", "/Subtype/Stamp/F 2{}", content=content)
    if crop:
        data = data.replace(b"/MediaBox[0 0 400 300]", b"/CropBox[0 0 400 200]/MediaBox[0 0 400 300]")
    assert text_of(data) == "an invoice\nits end" + ("" if crop else "\nseen")


def test_a_page_that_cannot_be_copied_has_its_content() -> None:
    """Where annotations cannot be read, as on a damaged page that is none of its document's, the rest is."""
    with closing(pypdfium2.PdfDocument(annotated("/Subtype/Stamp{}", content=show("content", 20, 20)))) as document:
        assert read_text(document[0], 0, has_layers=False) == "content\nseen"
        assert read_text(document[0], 99, has_layers=False) == "content"


def test_a_page_with_annotations_is_the_same_each_time() -> None:
    """Reading annotations leaves the document as it was: picture and text come again."""
    blank, *pages = iter_pages(draw(lambda _: None, fields, fields), pages=[0, 1, 2, 1, 1], tiling=QUICK)
    assert blank.text == ""
    assert len({page.sha256 for page in pages}) == 1
    assert "Quintana" in pages[0].text


# Layers


def layered(config: str, content: str, properties: str = "/A 6 0 R/B 7 0 R/C 8 0 R", *more: str) -> bytes:
    """A page with the layers A (6), B (7) and C (8), where B may be for print, and whatever else from 9 on."""
    catalog = f"<</Type/Catalog/Pages 2 0 R/OCProperties<</OCGs[6 0 R 7 0 R 8 0 R]/D<<{config}>>>>>>"
    font = "/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
    resources = f"/Resources<<{font}/Properties<<{properties}>>/XObject<</X 9 0 R/Y 10 0 R>>>>"
    page = f"<</Type/Page/Parent 2 0 R{box(0, 0, 400, 300)}/Contents 4 0 R{resources}>>"
    usage = "/Usage<</Print<</PrintState/ON>>/View<</ViewState/OFF>>>>" if "/AS" in config else ""
    layers = ["<</Type/OCG/Name(A)>>", f"<</Type/OCG/Name(B){usage}>>", "<</Type/OCG/Name(A)>>"]
    return by_hand(catalog, "<</Type/Pages/Count 1/Kids[3 0 R]>>", page, stream(content), "null", *layers, *more)


def on_layer(name: str, content: str) -> str:
    return f"/OC /{name} BDC {content} EMC "


THREE = "".join(on_layer(name, show(f"text {name}", 20, 250 - 20 * n)) for n, name in enumerate("ABC"))
AS = "/AS[<</Event/View/Category[View]/OCGs[7 0 R]>>]"


def form(text: str, entries: str = "") -> str:
    """A form XObject with a text."""
    font = "/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>"
    return stream(show(text, 0, 0), f"/Type/XObject/Subtype/Form/BBox[0 -5 200 20]{font}{entries}")


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (layered("", THREE), "text A text B text C"),
        (layered("/OFF[8 0 R]", THREE), "text A text B"),  # which has the name of the first
        (layered("/BaseState/OFF/ON[7 0 R]", THREE), "text B"),
        (layered(AS, THREE), "text A text C"),
        (layered("/OFF[6 0 R]", on_layer("A", THREE) + show("none", 20, 100)), "none"),
        (layered("/OFF[7 0 R]", on_layer("A", show("outer", 20, 99) + on_layer("B", show("inner", 20, 70)))), "outer"),
        (layered("/OFF[6 0 R]", "q 1 0 0 1 20 99 cm /X Do Q", "", form("inside", "/OC 6 0 R")), ""),
        (layered("/OFF[6 0 R]", "q 1 0 0 1 20 99 cm /X Do Q", "", form("inside", "/OC 7 0 R")), "inside"),
        (layered("/OFF[6 0 R]", on_layer("A", "q 1 0 0 1 20 99 cm /X Do Q"), "/A 6 0 R", form("inside")), ""),
        (
            layered(
                "/OFF[7 0 R]",
                on_layer("M", show("all", 20, 250)) + on_layer("N", show("any", 20, 230)),
                "/M<</Type/OCMD/OCGs[6 0 R 7 0 R]/P/AllOn>>/N<</Type/OCMD/OCGs[6 0 R 7 0 R]/P/AnyOn>>",
            ),
            "any",
        ),
        (
            layered(
                "/OFF[7 0 R]",
                on_layer("M", show("not", 20, 250)) + on_layer("N", show("both", 20, 230)),
                "/M<</Type/OCMD/VE[/Not 7 0 R]>>/N<</Type/OCMD/VE[/And 6 0 R 7 0 R]>>",
            ),
            "not",
        ),
    ],
    ids=[
        "all on",
        "off",
        "base state",
        "usage",
        "all off",
        "nested",
        "form",
        "form on",
        "form inside",
        "policy",
        "rule",
    ],
)
def test_what_a_layer_hides_is_not_read(data: bytes, seen: str) -> None:
    """Text of layers that are off is neither seen nor read, and that of the others is."""
    assert text_of(data).split() == seen.split()


def test_text_that_lies_invisibly_on_a_layer_that_is_on_is_read() -> None:
    """Text behind a scanned page is drawn by nobody; white text is not seen on white, and blanks never are."""
    content = on_layer("A", f"3 Tr {show('scanned', 20, 250)} 0 Tr") + on_layer("C", f"1 g {show('white', 20, 230)}")
    off = on_layer("B", f"3 Tr {show('hidden', 20, 200)} 0 Tr")
    assert text_of(layered("/OFF[7 0 R]", content + off)).split() == ["scanned", "white"]


def test_text_in_a_font_without_glyphs_is_read() -> None:
    """Programs that recognize text write it behind the picture with glyphs that draw nothing, so nobody can tell."""
    content = on_layer("A", "BT /G 12 Tf 20 250 Td (a) Tj ET")
    procedure = "/CharProcs<</a 9 0 R>>/Encoding<</Differences[97/a]>>/FirstChar 97/LastChar 97/Widths[500]"
    font = f"/G<</Type/Font/Subtype/Type3/FontBBox[0 0 1000 1000]/FontMatrix[.001 0 0 .001 0 0]{procedure}>>"
    data = layered("/OFF[7 0 R]", content, "/A 6 0 R", stream("500 0 0 0 500 700 d1"))
    assert text_of(data.replace(b"/Font<<", b"/Font<<" + font.encode(), 1)) == "a"


def test_layers_are_found_in_compressed_and_encrypted_files(tmp_path: Path) -> None:
    """A catalog in a stream of objects has layers, too, and where nobody can tell there may be some."""
    path = tmp_path / "a.pdf"

    def found(data: bytes) -> bool:
        path.write_bytes(data)
        return mentioned(str(path), [LAYERS, b"/Unheard"]) >= {LAYERS}

    catalog = zlib.compress(b"1 0 <</Type/Catalog/OCProperties<<>>>>")
    other = zlib.compress(b"1 0 <</Type/Catalog>>")
    compressed = b"9 0 obj<</Type/ObjStm/N 1/First 4/Length 9>>stream\r\n%s\nendstream"
    assert found(layered("", THREE))
    assert found(b"x" * (2**18 - 20) + compressed % catalog)
    assert found(compressed % b"no deflated stream")
    assert found(compressed % other + b"trailer<</Encrypt 2 0 R>>")
    assert not found(compressed % other)
    assert not found(draw(lambda canvas: canvas.drawString(9, 9, "plain"), encrypt="secret"))


ON, OFF = "/OC 8 0 R", "/OC 9 0 R"


@pytest.mark.parametrize(
    ("layer", "seen"),
    [
        ("", True),
        (ON, True),
        (OFF, False),
        ("/OC<</Type/OCMD/OCGs[8 0 R 9 0 R]/P/AllOn>>", False),
        ("/OC<</Type/OCMD/VE[/Not 9 0 R]/Name<</A(>>)>>>>", True),
        ("/OC 10 0 R", False),
    ],
    ids=["none", "on", "off", "policy", "rule", "membership"],
)
@pytest.mark.parametrize("kind", ["/Subtype/Stamp", "/Subtype/Widget/FT/Tx/T(a)/V(seen)"], ids=["stamp", "field"])
def test_annotations_on_layers_that_are_off_are_neither_drawn_nor_read(kind: str, layer: str, seen: bool) -> None:
    """A stamp or field is seen if its layer is on, each time that its page is read, and so is one without a layer."""
    properties = "/OCProperties<</OCGs[8 0 R 9 0 R]/D<</OFF[9 0 R]>>>>/AcroForm<</Fields[6 0 R]>>"
    layers = ("<</Type/OCG/Name(on)>>", "<</Type/OCG/Name(off)>>", "<</Type/OCMD/OCGs 9 0 R>>")
    other = "/Subtype/Link/OC 8 0 R"
    data = annotated(f"{kind}/Contents(/OC 8 0 R){layer}{{}}", other, entries=properties, more=layers)
    first, second = iter_pages(data, pages=[0, 0], tiling=QUICK)
    assert first.text == ("seen" if seen else "")
    assert (first.image.convert("L").getextrema()[0] < 200) == seen
    assert first.sha256 == second.sha256
