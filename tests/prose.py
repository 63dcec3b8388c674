"""Counts turns of phrase that hide the noun: `python -m tests.prose [PATH ...]` prints each one with its file and line.

The style is "say the noun" of CONTRIBUTING.md. `tests/test_prose.py` holds the budget.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

PATTERNS = {
    "what": r"[Ww]hat (?:is|are|was|were|has|have|had|an?|the|it|its|they|this|that)",
    "where": r"[Ww]here (?:it|they|there|no|none|nothing|not|this|that)",
    "tell": r"[Tt]ells?|[Tt]old|[Tt]elling",
    "is no": r"(?<![Tt]here\s)(?:is|are|was|were|be) (?:no|none)(?! (?:longer|more|later))",
    "behind": r"[Bb]ehind",
    "nobody": r"[Nn]obody|[Nn]o one",
    "somebody": r"[Ss]omebody|[Ss]omeone|[Aa]nybody",
    "whoever": r"[Ww]hoever|[Ww]homever",
}
"""The turns of phrase that have a budget, as regular expressions of whole words."""

_PATTERNS = {name: re.compile(r"\b(?:" + pattern.replace(" ", r"\s+") + r")\b") for name, pattern in PATTERNS.items()}

GROUPS = {
    "library": ["src"],
    "documents": ["*.md", "docs", "changes", "chaos/README.md", "bench/README.md"],
    "programs": ["tests", "chaos", "bench", "examples"],
}
"""The files that are counted together. Of programs only docstrings and comments count, of the library messages too."""


@dataclass(frozen=True)
class Text:
    """A piece of prose, and the line of its file that it begins on."""

    path: Path
    line: int
    text: str

    @property
    def words(self) -> int:
        """The number of words."""
        return len(re.findall(r"[A-Za-z][\w'-]*", self.text))

    def hits(self) -> Iterator[Hit]:
        """Find each turn of phrase that has a budget; `code` does not count."""
        prose = re.sub(r"`[^`\n]+`", lambda code: "`" * len(code[0]), self.text)
        for name, pattern in _PATTERNS.items():
            for match in pattern.finditer(prose):
                around = self.text[max(0, match.start() - 40) : match.end() + 60]
                line = self.line + self.text.count("\n", 0, match.start())
                yield Hit(self.path, line, name, " ".join(around.split()))


@dataclass(frozen=True)
class Hit:
    """One turn of phrase, with the words around it."""

    path: Path
    line: int
    pattern: str
    around: str


def texts(group: str) -> Iterator[Text]:
    """Read all prose of a group of files."""
    for name in GROUPS[group]:
        tops = ROOT.glob(name)
        for path in sorted(path for top in tops for path in ([top] if top.is_file() else top.rglob("*"))):
            if path.suffix == ".py":
                yield from _python(path, messages=group == "library")
            elif path.suffix in {".lua", ".sql"}:
                yield from _dashes(path)
            elif path.suffix == ".md" and group == "documents":
                yield from _markdown(path)


def rates(pieces: list[Text]) -> dict[str, float]:
    """Count each turn of phrase: hits per 10,000 words."""
    words = sum(piece.words for piece in pieces)
    found = [hit.pattern for piece in pieces for hit in piece.hits()]
    return {name: 10_000 * found.count(name) / words for name in PATTERNS}


def _python(path: Path, *, messages: bool) -> Iterator[Text]:
    source = path.read_text()
    tree = ast.parse(source)
    yield from _comments(path, source)
    lines = source.encode().splitlines(keepends=True)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(each) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and messages:
            yield Text(path, node.lineno, "".join(_text_of(each) for each in node.values))
        elif not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in parts:
            continue
        elif id(node) in docstrings or (messages and " " in node.value):
            yield Text(path, node.lineno, _source_of(node, lines))


def _source_of(node: ast.Constant, lines: list[bytes]) -> str:
    """Read a string as it is written: `ast.get_source_segment` splits the whole source at each call."""
    end = node.end_lineno or node.lineno
    part = b"".join(lines[node.lineno - 1 : end])
    return part[node.col_offset : len(part) - len(lines[end - 1]) + (node.end_col_offset or 0)].decode()


def _text_of(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "{}"


def _comments(path: Path, source: str) -> Iterator[Text]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = ((token.start[0], token.string[1:]) for token in tokens if token.type == tokenize.COMMENT)
    yield from _joined(path, lines)


def _dashes(path: Path) -> Iterator[Text]:
    lines = enumerate(path.read_text().splitlines(), 1)
    yield from _joined(path, ((number, line.split("--", 1)[1]) for number, line in lines if "--" in line))


def _markdown(path: Path) -> Iterator[Text]:
    """Read a page without its blocks of code."""
    source = re.sub(r"(?ms)^```.*?^```", lambda block: "\n" * block[0].count("\n"), path.read_text())
    lines = [(number, line) for number, line in enumerate(source.splitlines(), 1) if not line.startswith("    ")]
    yield from _joined(path, lines)


def _joined(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Join lines that follow each other: a sentence may go on in the next one."""
    first, block = 0, list[str]()
    for number, line in lines:
        if block and number == first + len(block):
            block.append(line)
            continue
        if block:
            yield Text(path, first, "\n".join(block))
        first, block = number, [line]
    if block:
        yield Text(path, first, "\n".join(block))


def main() -> None:
    """Print the hits below the paths that are given, else all, then the rates of each group."""
    parser = argparse.ArgumentParser(prog="python -m tests.prose")
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="a file or a folder")
    below = [path.resolve() for path in parser.parse_args().paths]
    groups = {group: list(texts(group)) for group in GROUPS}
    for hit in (hit for pieces in groups.values() for piece in pieces for hit in piece.hits()):
        if not below or any(hit.path.is_relative_to(path) for path in below):
            print(f"{hit.path.relative_to(ROOT)}:{hit.line}: {hit.pattern}: {hit.around}")
    table = {group: rates(pieces) for group, pieces in groups.items()}
    print(f"\n{'per 10,000 words':18}" + "".join(f"{group:>12}" for group in table))
    for name in PATTERNS:
        print(f"{name:18}" + "".join(f"{table[group][name]:12.1f}" for group in table))


if __name__ == "__main__":
    main()
