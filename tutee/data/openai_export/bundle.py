"""The files of an export, in a folder or a zip, opened without trusting either; and JSON values read one at a time.

Nothing is ever unpacked to the disk. An archive is refused when a name in it leads outside, when it claims to unpack to
more than `MAX_BYTES`, or when a file in it claims to be packed more tightly than JSON can be; a link that leads out of
the folder is refused too. Files are read in pieces, so their size does not matter, only that of one value in them.
Does not know what any file means.
"""

from __future__ import annotations

import codecs
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from tutee.errors import InvalidInput, TooLarge

MAX_BYTES = 64 * 1024**3
"""Most bytes that an archive may unpack to."""
MAX_RATIO, RATIO_FROM = 100, 16 * 1024**2
"""Text packs 3 to 20 times; a file over `RATIO_FROM` bytes that says more than `MAX_RATIO` is a bomb."""
MAX_VALUE = 64 * 1024**2
"""Most characters of one value: the longest conversations have a few million."""
PIECE = 1 << 20
SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its name within the export (`/` between folders), its size, and how to open it."""

    name: str
    size: int
    open: Callable[[], BinaryIO]

    @property
    def base(self) -> str:
        """The name without folders."""
        return PurePosixPath(self.name).name


class BadValue(Exception):
    """What is wrong with the JSON of a file, and in which line. The rest of the file cannot be read."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def entries(source: Path, opened: ExitStack) -> list[Entry]:
    """The files of a folder, or of a zip (kept open on `opened`), by name.

    Raises:
        InvalidInput: no folder and no zip; a name or a link that leads outside (code unsafe_archive).
        TooLarge: a zip bomb.
    """
    if source.is_dir():
        return sorted(_of_folder(source), key=lambda entry: entry.name)
    try:
        archive = opened.enter_context(zipfile.ZipFile(source))
    except (zipfile.BadZipFile, OSError) as error:
        raise InvalidInput(f"{source.name} is neither a folder nor a zip: {error}", param="export") from None
    return sorted(_of_zip(source.name, archive), key=lambda entry: entry.name)


def _of_folder(folder: Path) -> Iterator[Entry]:
    root = folder.resolve()
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            if not path.resolve().is_relative_to(root):
                raise InvalidInput(f"{path} is a link that leads out of the folder.", param="export", code=UNSAFE)
            if path.is_file():
                yield Entry(path.relative_to(folder).as_posix(), path.stat().st_size, _opener(path))


def _opener(path: Path) -> Callable[[], BinaryIO]:
    return lambda: path.open("rb")


UNSAFE = "unsafe_archive"


def _of_zip(name: str, archive: zipfile.ZipFile) -> Iterator[Entry]:
    if sum(info.file_size for info in archive.infolist()) > MAX_BYTES:
        raise TooLarge(f"{name} unpacks to more than {MAX_BYTES // 1024**3} GiB.", param="export")
    for info in archive.infolist():
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[0][1:2]:
            raise InvalidInput(f"{name} holds {info.filename!r}, which leads outside.", param="export", code=UNSAFE)
        if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise TooLarge(f"{name} holds {info.filename!r}, {info.file_size:,} bytes out of {info.compress_size:,}.")
        if not info.is_dir() and not inside.name.startswith("._"):
            yield Entry(str(inside), info.file_size, _unzipper(archive, info))


def _unzipper(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    return lambda: cast(BinaryIO, archive.open(info))


def values(entry: Entry) -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of a file that is one JSON array, or of each value in a row (JSON Lines).

    Raises:
        BadValue: the file is damaged from that line on, or one value in it is too large.
    """
    try:
        with entry.open() as stream:
            yield from _Scanner(stream).values()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BadValue(0, f"cannot be unpacked: {error}") from None


def lines(entry: Entry) -> Iterator[tuple[int, Any]]:
    """(line, value) of each line of a JSON Lines file; a damaged line has a `BadValue` for its value.

    Raises:
        BadValue: the file cannot be unpacked.
    """
    try:
        with entry.open() as stream:
            number = 0
            while raw := stream.readline(MAX_VALUE + 1):
                number += 1
                if raw.strip():
                    yield number, _line(number, raw)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BadValue(0, f"cannot be unpacked: {error}") from None


def _line(number: int, raw: bytes) -> Any:
    if len(raw) > MAX_VALUE:
        return BadValue(number, f"is longer than {MAX_VALUE // 1024**2} MiB.")
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except RecursionError:
        return BadValue(number, "is nested too deeply.")
    except ValueError as error:
        return BadValue(number, f"is not JSON: {getattr(error, 'msg', error)}.")


class _Scanner:
    """Cuts a stream of JSON into its outermost values with a window that grows only as one value needs it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1
        self._ended = False

    def values(self) -> Iterator[tuple[int, Any]]:
        array = self._next() == "["
        if array:
            self._at += 1
        while (character := self._next()) and character != "]":
            yield self._line, self._value()
            if self._next() == "," and array:
                self._at += 1
        if array and not character:
            raise BadValue(self._line, "ends in the middle of a list.")

    def _next(self) -> str:
        """The next character that is no space, still to be read; empty at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in SPACE:
                    return character
                self._line += character == "\n"
                self._at += 1
            if not self._more(PIECE):
                return ""

    def _value(self) -> Any:
        wanted = PIECE
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
            except RecursionError:
                raise BadValue(self._line, "is nested too deeply.") from None
            except ValueError as error:
                if len(self._text) - self._at > MAX_VALUE:
                    raise BadValue(self._line, f"is longer than {MAX_VALUE // 1024**2} MiB, or damaged.") from None
                if not self._more(wanted):
                    raise BadValue(self._line, f"is not JSON: {getattr(error, 'msg', error)}.") from None
                wanted *= 2
                continue
            if end == len(self._text) and self._more(wanted):
                continue  # a number may go on
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            return value

    def _more(self, size: int) -> bool:
        """Read on; False at the end of the stream."""
        if self._ended:
            return False
        piece = self._stream.read(size)
        self._ended = not piece
        try:
            self._text = self._text[self._at :] + self._utf8.decode(piece, final=self._ended)
        except UnicodeDecodeError:
            raise BadValue(self._line, "is not UTF-8.") from None
        self._at = 0
        return not self._ended
