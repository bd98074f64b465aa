"""Files as streams of plain bytes: decompressed, and in UTF-8 without a mark at the beginning."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from ingest.formats.framed import ZSTD

CUT = (EOFError,)
DAMAGED = (zlib.error, zstandard.ZstdError, gzip.BadGzipFile, UnicodeDecodeError)
# UTF-16 is what Windows' PowerShell writes when output goes to a file. UTF-32 begins as UTF-16 and is no text here.
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_CHUNK = 4 << 10  # compressed bytes at once: what they may become stays within memory
_TEXT_CHUNK = 1 << 20


def open_plain(path: Path) -> io.BufferedReader:
    """The file, decompressed if it is compressed as a whole; can be peeked into. Raises OSError; reading raises one of
    ``CUT`` at a compressed stream that ends early, and of ``DAMAGED`` at one that does not decode."""
    file = _peekable(path.open("rb"))
    magic = file.peek(4)[:4]
    if magic[:2] == b"\x1f\x8b":
        file = _peekable(gzip.GzipFile(fileobj=file))  # type: ignore[arg-type]
    elif magic == ZSTD:
        file = io.BufferedReader(_Zstd(file))
    return _as_utf8(file)


def _peekable(file: BinaryIO) -> io.BufferedReader:
    """An object store's file and a decompressor cannot be peeked into."""
    if isinstance(file, io.BufferedReader):
        return file
    return io.BufferedReader(file)  # type: ignore[arg-type]


class _Zstd(io.RawIOBase):
    """Frames of zstd one after another; unlike the library's own reader it tells a stream that ends within one."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_within = False
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            told = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(_CHUNK)
            if self._frame.eof:
                self._frame, self._is_within = zstandard.ZstdDecompressor().decompressobj(), False
            if not told:
                if self._is_within:
                    raise EOFError("the zstd stream ends within a frame")
                return 0
            self._is_within = True
            self._ready = self._frame.decompress(told)
            self._is_within = not self._frame.eof
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


def _as_utf8(file: io.BufferedReader) -> io.BufferedReader:
    head = file.peek(4)[:4]
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
    elif head[:2] in _UTF16 and head != codecs.BOM_UTF32_LE:
        return io.BufferedReader(_Utf8(file, _UTF16[head[:2]]))
    return file


class _Utf8(io.RawIOBase):
    """Text of another encoding in UTF-8."""

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        self._file, self._ready = file, b""
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._file.read(2)  # the mark

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            told = self._file.read(_TEXT_CHUNK)
            self._ready = self._decoder.decode(told, final=not told).encode("utf-8", "replace")
            if not told and not self._ready:
                return 0
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
