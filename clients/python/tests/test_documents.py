"""The examples of the README and of the guide are run as they stand, and print what is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
from cluster import ROOT, Cluster

DOCUMENTS = ["clients/python/README.md", "docs/guides/python.md"]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    line: int
    code: str
    shown: Optional[str]


def examples(document: Path) -> list[Example]:
    """Return the Python blocks of a document; a text block right behind one is what it prints."""
    text = document.read_text("utf-8")
    found: list[Example] = []
    end = 0
    for match in _FENCE.finditer(text):
        language, body = match.groups()
        if language == "python":
            found.append(Example(text.count("\n", 0, match.start()) + 2, body, None))
        elif language == "text" and found and not text[end : match.start()].strip():
            found[-1] = found[-1]._replace(shown=body)
        end = match.end()
    return found


def fits(shown: str, printed: str) -> bool:
    """Compare; `<anything>` stands for one or more characters of a line."""
    parts = re.split(r"<[^<>\n]+>", shown.strip())
    return re.fullmatch(".+".join(map(re.escape, parts)), printed.strip()) is not None


def test_shown_text_fits_what_was_printed_and_nothing_else() -> None:
    assert fits("at <time> by me\n", "at 5 by me")
    assert not fits("at <time>", "at ")
    assert not fits("5", "5\n6")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_examples_do_what_is_shown(document: str, cluster: Cluster) -> None:
    found = examples(ROOT / document)
    assert found, f"{document} has no example"
    for example in found:
        code = example.code
        for number, url in enumerate(cluster.urls, start=1):
            code = code.replace(f"http://127.0.0.1:808{number}", url)
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=cluster.directory, capture_output=True, text=True, timeout=60
        )
        place = f"{document}:{example.line}"
        assert run.returncode == 0, f"{place}\n{run.stderr}"
        assert fits(example.shown or "", run.stdout), f"{place}\nshown: {example.shown}\nprinted: {run.stdout}"
