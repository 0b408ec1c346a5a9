"""CSV files: what users bring, and what we write."""

import csv
import gzip

import pytest

from mambaxray.data.csv_table import read_csv, write_csv
from mambaxray.data.schema import SourceError

TEXTS = [
    *(
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "- no pneumothorax",
        "-",
        "=",
        "'=already quoted",
        "''@x",
        "'quoted'",
    ),
    *("plain", "", "'", "a=b", "line\nbreak", 'a "quoted" word', "semi;colon, comma", "\u00e9\u4e2d"),
]


def test_no_cell_that_we_write_begins_as_a_formula_and_all_read_back(tmp_path):
    file = tmp_path / "ours.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        write_csv(out, [("number", "text")])
        write_csv(out, ([str(number), text] for number, text in enumerate(TEXTS)))
    with file.open(encoding="utf-8", newline="") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row["text"] for row in read_csv(file)] == TEXTS


def test_numbers_and_nothing_are_written_as_they_are(tmp_path):
    with (tmp_path / "ours.csv").open("w", newline="") as out:
        write_csv(out, [(-1, -0.5, None)])
    assert (tmp_path / "ours.csv").read_text().strip() == "-1,-0.5,"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_commas_semicolons_and_tabs_separate_columns(tmp_path, separator, encoding):
    text = separator.join(["image", " report "]) + "\r\n" + separator.join(["a.png", '"x;\t,y"']) + "\r\n"
    (tmp_path / "table.csv").write_text(text, encoding=encoding)
    assert list(read_csv(tmp_path / "table.csv", ("image",))) == [{"image": "a.png", "report": "x;\t,y"}]


def test_a_compressed_file_with_a_long_cell_is_read(tmp_path):
    with gzip.open(tmp_path / "table.csv.gz", "wt") as out:
        out.write("image,report\na.png," + "x" * 500_000)
    (row,) = read_csv(tmp_path / "table.csv.gz")
    assert len(row["report"]) == 500_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,report\na.png,one, two\n", "line 2: it has more cells than the header"),
        (b"image,image\na,b\n", "the column 'image' twice"),
        (b"picture,report\na,b\n", r"lacks the columns image \(columns found: picture, report\)"),
        (b"", r"lacks the columns image \(columns found: none\)"),
        (b"image\n\xff\xfe", "not a CSV file in UTF-8"),
        (b'image,report\n"a.png,b\n', "not a CSV file in UTF-8, or damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, message):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_csv(tmp_path / "table.csv", ("image",)))
