"""Text from outside, made fit for a terminal, a log line or a page."""

from __future__ import annotations

import re

# Letters, marks and symbols that are drawn as nothing: default-ignorable characters, and the empty Braille cell.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def is_printable(text: str) -> bool:
    """Return whether every character of the text is visible, or an ASCII space, on one line."""
    return text.isprintable() and (text.isascii() or not _INVISIBLE.search(text))


def printable(text: str) -> str:
    """The text on one line, with whatever is invisible or could steer a terminal written as an escape.

    These are control characters (ESC, CR, LF, C1), bidirectional overrides, invisible characters, spaces other than
    that of ASCII, and lone surrogates.

    >>> print(printable("red: \\x1b[31m"), printable("two\\nlines"), printable("Zo\u00eb"))
    red: \\x1b[31m two\\nlines Zo\u00eb
    """
    if is_printable(text):
        return text
    return "".join(c if is_printable(c) else c.encode("unicode_escape").decode() for c in text)
