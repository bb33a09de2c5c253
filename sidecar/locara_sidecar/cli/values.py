"""Parsers for the values of arguments. Each raises an ``ArgumentTypeError`` that says what was expected."""

from __future__ import annotations

import argparse
import math
import re


def pixels(text: str) -> tuple[int, int]:
    """Parse width and height, such as 1024x768."""
    match = re.fullmatch(r"(\d{1,5})\s*[x×*]\s*(\d{1,5})", text.strip().lower(), re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError("expected width and height, such as 1024x768")
    return int(match[1]), int(match[2])


def grant(text: str) -> tuple[str, str]:
    """Parse a root's name and its folder, as NAME=DIR."""
    name, separator, folder = text.partition("=")
    if not (separator and name and folder):
        raise argparse.ArgumentTypeError("expected NAME=DIR, such as user-folder=/home/a/Pictures/App")
    return name, folder


def descriptor(text: str) -> int:
    """Parse the number of an inherited descriptor, above the three standard ones."""
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) is None or int(text) < 3:
        raise argparse.ArgumentTypeError("expected the number of an inherited descriptor, 3 or more")
    return int(text)


def seconds(text: str) -> float:
    """Parse seconds, 0 or more; also ``inf``."""
    value = number(text)
    if value < 0 or math.isnan(value):
        raise argparse.ArgumentTypeError("expected seconds, 0 or more")
    return value


def positive(text: str) -> float:
    """Parse seconds, more than 0; also ``inf``."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("expected seconds, more than 0")
    return value


def number(text: str) -> float:
    """Parse a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def count(text: str) -> int:
    """Parse an integer, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("expected a whole number, 0 or more")
    return int(text)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def size(text: str) -> int:
    """Parse bytes: a number, optionally with K, M, G or T (powers of 1000, as disks are sold) or KiB, MiB, GiB, TiB (of
    1024).

    :raises ArgumentTypeError: for anything else.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgt]?i?)b?", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError("expected a size, such as 500M, 20G or 20GiB")
    from decimal import Decimal

    return int(Decimal(match[1]) * _UNITS[match[2]])


def line_bytes(text: str) -> int:
    """Parse a line length in bytes, at least 1024."""
    value = count(text)
    if value < 1024:
        raise argparse.ArgumentTypeError("expected at least 1024")
    return value
