"""Files that are given as a model or its weights and are something else: what they are, and what to do."""

from __future__ import annotations

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

#: First bytes -> what such a file is, and the remedy.
_MAGIC = (
    (b"PK\x03\x04", "a zip archive (PyTorch, NumPy and Keras save such files)", ""),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first: gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it first: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first: unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x80\x02", "a Python pickle (PyTorch saved such files)", ""),
    (b"%PDF-", "a PDF document", ""),
    (b"\x89PNG\r\n", "a PNG image", ""),
    (b"\xff\xd8\xff", "a JPEG image", ""),
)
_TEXT = bytes([*range(0x20, 0x100), *b"\t\n\f\r\x1b"])


def is_hdf5(head: bytes) -> bool:
    """Whether the file that begins with `head` is HDF5; a user block may come before the signature."""
    offsets = (0, 512, 1024, 2048)
    return any(head[offset : offset + len(HDF5_MAGIC)] == HDF5_MAGIC for offset in offsets)


def what_else(head: bytes, wanted: str = "a caffemodel") -> str | None:
    """What a file is that begins with `head` and is not `wanted`, with the remedy; None if nothing tells.

    Caffe itself loads some of these without a word, as a model that has no weights: "<" is an end-group tag.
    """
    for magic, what, remedy in _MAGIC:
        if head.startswith(magic):
            return f"this is {what}, not {wanted}: {remedy or f'give {wanted}'}"
    # In a caffemodel the tag of the first layer comes early and has a control byte: 0x06 or 0x12.
    return None if head.translate(None, _TEXT) else _what_text(head, wanted)


def _what_text(head: bytes, wanted: str) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, the weights themselves were not fetched: git lfs pull"
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<!--")):
        return f"this is a web page, not {wanted}: the download went wrong, fetch the file itself"
    if start.startswith((b"{", b"[")):
        return f"this is JSON text, not {wanted}"
    if b"layer" in start or b"input_dim" in start or b"input_shape" in start or b"name:" in start:
        return (
            f"this is text (a prototxt?), not {wanted}: "
            "of a Caffe model the definition comes first, then the weights; are the arguments swapped?"
        )
    return f"this is text, not {wanted}"


def looks_like_onnx(head: bytes) -> bool:
    """Whether the file may be ONNX: it begins with `ir_version`, a varint; a caffemodel's field 1 is text."""
    return len(head) > 2 and head[0] == 0x08 and head[1] < 0x80
