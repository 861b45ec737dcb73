"""Sealed JSON: whatever byte of it changes, reading fails."""

from __future__ import annotations

import pytest

from rrise.edge_sdk.errors import BundleError
from rrise.edge_sdk.formats.sealed import read_sealed, write_sealed

VALUE = {"name": "Übung", "numbers": [1, 2.5, None], "nested": {"yes": True}}


def test_what_was_written_is_read(tmp_path):
    write_sealed(tmp_path / "a.json", VALUE)
    assert read_sealed(tmp_path / "a.json", "test record") == VALUE


def test_every_single_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_sealed(path, VALUE)
    original = path.read_bytes()
    for position in range(len(original)):
        for bit in (0x01, 0x20):
            changed = bytearray(original)
            changed[position] ^= bit
            path.write_bytes(bytes(changed))
            with pytest.raises(BundleError, match="test record"):
                read_sealed(path, "test record")


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", '{"a": 1}', "\xff", "[" * 10000])
def test_other_text_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="restore"):
        read_sealed(tmp_path / "a.json", "test record")


def test_truncated_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(BundleError, match="test record"):
        read_sealed(path, "test record")
    write_sealed(path, VALUE)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BundleError):
            read_sealed(path, "test record")
