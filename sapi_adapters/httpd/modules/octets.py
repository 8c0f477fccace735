"""Text of the configuration as the wire has it: one code point for each byte."""

from __future__ import annotations


def octets(text: str) -> str:
    """Return *text*, read from a file in UTF-8, as latin-1 text of the same bytes.

    That is what headers, names of users and paths of requests are.
    """
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def printable(text: str) -> bool:
    """Whether *text* is latin-1 without control characters other than tabs."""
    if text.isascii() and text.isprintable():
        return True
    return all((" " <= sign <= "\xff" and sign != "\x7f") or sign == "\t" for sign in text)
