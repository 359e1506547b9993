"""Fixtures of several commands."""

from __future__ import annotations

import pytest
from support.formats import NEW, OLD


@pytest.fixture
def old_and_new(tmp_path, monkeypatch):
    """Work in a folder with an old and a new report in it."""
    monkeypatch.chdir(tmp_path)
    OLD.save("old.json")
    NEW.save("new.json")
    return tmp_path
