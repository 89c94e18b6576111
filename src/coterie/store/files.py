"""Files and JSON, for the rooms from here on."""

from coterie._files import (
    Place,
    absolute,
    atomic_write,
    directory_error,
    make_directory,
    need_directory,
    read_bytes,
    remove_temporary,
    write_error,
    writing,
)
from coterie._json import canonical, digest, json_bytes, read_json, reading, real, text, to_plain, whole, write_json

__all__ = [
    "Place",
    "absolute",
    "atomic_write",
    "canonical",
    "digest",
    "directory_error",
    "json_bytes",
    "make_directory",
    "need_directory",
    "read_bytes",
    "read_json",
    "reading",
    "real",
    "remove_temporary",
    "text",
    "to_plain",
    "whole",
    "write_error",
    "write_json",
    "writing",
]
