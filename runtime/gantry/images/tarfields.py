"""The small parts of tar headers: numbers, texts, checksums, extended records. Pure."""

from __future__ import annotations

from gantry.images.errors import ArchiveError

SPARSE_MAP = b"GNU.sparse.map"
_SPARSE_PARTS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def show(name: bytes) -> str:
    """A name for people."""
    return name.decode("utf-8", "backslashreplace")


def check_sum(header: bytes, at: int) -> None:
    """Compare a header with its checksum, unsigned or (as some old writers made it) signed.

    Raises:
        ArchiveError: It is another.
    """
    expected = number_field(header[148:156], "checksum")
    total = sum(header) - sum(header[148:156]) + 256
    if total != expected:
        signed = total - 256 * sum(1 for byte in header[:148] + header[156:] if byte > 127)
        if signed != expected:
            raise ArchiveError(
                f"damaged header at byte {at} of the archive: wrong checksum", hint="fetch the image again"
            )


def text_field(field: bytes) -> bytes:
    """A text in a header: up to the first NUL."""
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def number_field(field: bytes, what: str, name: bytes = b"", *, signed: bool = False) -> int:
    """A number in a header: octal, or base 256.

    Raises:
        ArchiveError: It is neither, or negative where it must not be.
    """
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        negative = bool(first & 0x40)
        if negative:
            value -= 1 << (8 * len(field) - 1)
        if (negative and not signed) or abs(value) > 1 << 62:
            raise ArchiveError(f"{show(name)!r} has {_a(what)} out of range")
        return value
    text = field.strip(b" \0")
    if not text:
        return 0
    try:
        # One reader takes a NUL in front for the end, another passes over it.
        if not first or text.translate(None, b"01234567"):
            raise ValueError(what)
        return int(text, 8)
    except ValueError:
        raise ArchiveError(f"{show(name)!r} has {_a(what)} that is no number") from None


def digits(text: bytes, name: bytes) -> int:
    """A decimal number in an extended header.

    Raises:
        ArchiveError: It is none.
    """
    if not text.isdigit() or len(text) > 19:
        raise ArchiveError(f"{show(name)!r} has {show(text[:40])!r} where a number has to be")
    return int(text)


def decimal_record(records: dict[bytes, bytes], key: bytes, default: int) -> int:
    """The number that an extended header gives for *key*, or *default*."""
    return digits(records[key], key) if key in records else default


def time_record(text: bytes) -> int:
    """Nanoseconds since 1970 from a decimal fraction.

    Raises:
        ArchiveError: It is none.
    """
    sign = -1 if text.startswith(b"-") else 1
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if fraction and not fraction.isdigit():
        raise ArchiveError(f"{show(text[:40])!r} is not a time")
    return sign * (digits(whole, b"mtime") * 1_000_000_000 + int((fraction + b"000000000")[:9]))


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """Split records of length, key and value; a value may hold any byte.

    The last of several records with one key counts, as the standard has it. The pairs of records that are
    a sparse map in its oldest form, where the keys are repeated, come back as one record of the next form.

    Raises:
        ArchiveError: They are damaged, or the parts of such a map are out of order.
    """
    records: dict[bytes, bytes] = {}
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        if space < 0 or not data[at:space].isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise ArchiveError("damaged extended header: a record has no length")
        end = at + int(data[at:space])
        equals = data.find(b"=", space, end)
        if end > len(data) or end <= space or equals < 0 or data[end - 1 : end] != b"\n":
            raise ArchiveError("damaged extended header: a record is cut")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if key in _SPARSE_PARTS:
            if key != _SPARSE_PARTS[len(parts) % 2]:
                raise ArchiveError("damaged extended header: a sparse map is out of order")
            parts.append(value)
        else:
            records[key] = value
        at = end
    if parts:
        if SPARSE_MAP in records:
            raise ArchiveError("damaged extended header: two sparse maps")
        records[SPARSE_MAP] = b",".join(parts)
    return records


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"
