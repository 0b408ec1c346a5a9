"""How reports are cut into words before caption metrics see them."""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

from .java import pycocoevalcap_file, run_java, write_lines
from .metric_table import MetricUnavailableError

Tokenize = Literal["none", "ptb"]

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
# All that Python or a Java program may take for the end of a line, with the white space around it.
_LINE_BREAKS = re.compile(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# Characters that break a line-based program or that no file can hold.
_UNWRITABLE = re.compile(r"[\x00\ud800-\udfff]")


def one_line(text: str) -> str:
    """The text with line breaks as blanks; all else is kept."""
    return _LINE_BREAKS.sub(" ", text)


def tokenize_reports(texts: Sequence[str], tokenize: Tokenize = "none") -> list[str]:
    """Texts whose words are separated by blanks.

    - "none": as they are, words between blanks, as the five papers score; line breaks become blanks.
    - "ptb": lower case, cut by the Penn Treebank tokenizer of Stanford CoreNLP and without punctuation, as the COCO
      caption evaluation does.

    Raises:
        ValueError: unknown `tokenize`.
        MetricUnavailableError: "ptb" needs Java and pycocoevalcap.
    """
    if tokenize not in get_args(Tokenize):
        raise ValueError(f"tokenize={tokenize!r}: must be one of {', '.join(get_args(Tokenize))}")
    lines = [one_line(text) for text in texts]
    return lines if tokenize == "none" else _penn_treebank(lines)


def _penn_treebank(lines: Sequence[str]) -> list[str]:
    jar = pycocoevalcap_file(_JAR)
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    with TemporaryDirectory() as folder:
        file = Path(folder) / "reports"
        write_lines(file, (_UNWRITABLE.sub(" ", line) for line in lines))
        arguments = ["-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        output = run_java(
            [*arguments, "-preserveLines", "-lowerCase", str(file)], what="the ptb tokenization", texts=len(lines)
        )
    tokenized = output.split("\n")[:-1]
    if len(tokenized) != len(lines):
        raise MetricUnavailableError(f"the ptb tokenization gave {len(tokenized)} lines for {len(lines)} reports")
    punctuation = set(PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in punctuation) for line in tokenized]
