"""What the documents name is there: files, options, names of the code, and what links lead to."""

from __future__ import annotations

import re
import subprocess
from pathlib import PurePosixPath

import pytest

from tests.conftest import ROOT
from tests.docs.reading import documents, quoted

DOCUMENTS = documents()
_LISTED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
FILES = [PurePosixPath("/", name) for name in _LISTED.split("\0") if name]
TREE = {*FILES, *(parent for file in FILES for parent in file.parents)}
CODE = "\n".join(
    (ROOT / str(file)[1:]).read_text(encoding="utf-8")
    for file in FILES
    if file.suffix in (".py", ".sh", ".toml") and "docs" not in file.parts
)

_PATH = re.compile(r"[\w.*<>~/…-]*(/[\w.*<>~/…-]*|\.(csv|gz|h5|html|json|md|mp4|png|pt|pth|py|sh|toml|txt))")
# No files of the tree: what runs leave, what the user's folders hold, what a reader brings, endings of names.
ELSEWHERE = re.compile(
    r"(alref-demo/|out/|sound/|(out/)?(masks|semantic)/.*\.png|(clip|overlay)\.mp4|overlay\.png|report\.html|result\.json"
    r"|7\.png|~/\.(cache|local/state)/alref-edge.*"
    r"|engines/large|sam2\.1_hiera_\w+\.pt|groundingdino_\w+\.pth|…_AS2M_finetuned….pt|yamnet(\.h5|_class_map\.csv)"
    r"|research/audioset/yamnet|ontology\.json|\.pth|-float16\.json\.gz)"
)


def test_files_are_there() -> None:
    named = [
        (name, line, path) for name, text in DOCUMENTS.items() for line, path in quoted(text) if _PATH.fullmatch(path)
    ]
    wrong = []
    for name, line, path in named:
        pattern = re.sub("NAME|…", "*", path.rstrip("/"))
        there = any(each.match(pattern) for each in TREE)
        if there == bool(ELSEWHERE.fullmatch(path)):
            wrong.append(f"{name}:{line} {path}")
    assert len(named) > 100
    assert not wrong


def test_options_are_there() -> None:
    named = {
        option
        for text in DOCUMENTS.values()
        for _, code in quoted(text)
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", code)
    }
    theirs = {"--reasoning-parser"}  # vLLM's

    def known(option: str) -> bool:
        parameter = option.removeprefix("--no-").removeprefix("--").replace("-", "_")
        return f'"{option}' in CODE or re.search(rf"^    {parameter}: ", CODE, re.MULTILINE) is not None

    assert len(named) > 30
    assert {option for option in named if not known(option)} == theirs


# Defined, assigned, annotated, imported, or a text of its own; and what a reader names.
NAMES = {
    word for found in re.findall(r"\b(?:def|class|import) (\w+)|\b(\w+)\"?(?::| =|])|\"(\w+)\"", CODE) for word in found
}
OF_THE_READER = {"KEY", "Mine", "N", "mine"}


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_names_of_the_code_are_there(document: str) -> None:
    parts = [code for _, code in quoted(DOCUMENTS[document]) if not _PATH.fullmatch(code)]
    named = {word for code in parts for word in re.findall(r"(?<![\w-])[A-Za-z_]\w*(?![\w-])", code)}
    assert len(named) > 10
    assert not named - NAMES - OF_THE_READER


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document]):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        text = ((ROOT / document).parent / path).read_text(encoding="utf-8") if path else DOCUMENTS[document]
        headings = [
            re.sub(r"[^\w -]", "", line).lower().replace(" ", "-")
            for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert not heading or heading in headings, target
