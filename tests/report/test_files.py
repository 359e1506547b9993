"""Saving files: a write either replaces the whole file or leaves it unchanged."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from support.reports import made

from tokenscope import Report
from tokenscope._report.files import write_whole
from tokenscope._report.formats import format_of

REPORT = made((-1, "scope", "pipeline", 1, 1234, 10))


def test_the_format_is_that_of_the_suffix(tmp_path):
    """The suffix selects the format: a `.json` file can be loaded again, a `.txt` file holds the tree."""
    REPORT.save(tmp_path / "r.json")
    REPORT.save(str(tmp_path / "R.TXT"))

    assert REPORT == Report.load(tmp_path / "r.json")
    assert REPORT.render("tree") == (tmp_path / "R.TXT").read_text("utf-8")
    assert ["R.TXT", "r.json"] == sorted(os.listdir(tmp_path))


def test_a_format_and_options(tmp_path):
    """`save` takes a format for a file of any suffix, and the options that `render` takes."""
    REPORT.save(tmp_path / "report.out", "table", by="model", top=3)
    REPORT.save(tmp_path / "report.txt", depth=1, sort="cost")
    with pytest.raises(ValueError, match="there is no report format 'pdf'"):
        REPORT.save(tmp_path / "report.txt", format="pdf")

    assert REPORT.render("table", by="model", top=3) == (tmp_path / "report.out").read_text("utf-8")
    assert REPORT.render(depth=1, sort="cost") == (tmp_path / "report.txt").read_text("utf-8")


@pytest.mark.parametrize("name", ["report", "report.pdf", "json", ".jsonl"])
def test_other_suffixes(name, tmp_path):
    """An unknown suffix raises an error that names the known suffixes, and no file is written."""
    with pytest.raises(ValueError, match=r"must be one of .*\.json \(json\)"):
        REPORT.save(tmp_path / name)
    with pytest.raises(ValueError, match="the suffix says the format"):
        format_of(name)
    assert [] == os.listdir(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    """Writing text that cannot be encoded leaves the old file unchanged and no temporary file."""
    file = tmp_path / "report.txt"
    file.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new " * 100_000 + "\ud800")

    assert "old" == file.read_text()
    assert ["report.txt"] == os.listdir(tmp_path)


@pytest.mark.parametrize("fault", ["replace", "fsync", "chmod"])
def test_a_system_that_fails(fault, tmp_path, monkeypatch):
    """An interrupt during any step of a write leaves the old file unchanged and no temporary file."""
    file = tmp_path / "report.txt"
    file.write_text("old")

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, fault, fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "new")

    assert "old" == file.read_text()
    assert ["report.txt"] == os.listdir(tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    """Saving into a missing folder makes it, and the folders above it."""
    REPORT.save(tmp_path / "missing" / "too" / "report.json")

    assert REPORT == Report.load(tmp_path / "missing" / "too" / "report.json")


def test_a_file_in_the_place_of_the_folder(tmp_path):
    """Saving into something that is no folder raises a NotADirectoryError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        REPORT.save(tmp_path / "file" / "report.json")


def test_a_folder_in_the_way(tmp_path):
    """A folder is not overwritten, and no temporary file is left."""
    (tmp_path / "report.txt").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "report.txt", "new")

    assert ["report.txt"] == os.listdir(tmp_path)


def test_symbolic_links_are_written_through(tmp_path):
    """Writing to a symbolic link keeps the link, and replaces or creates the file that it points to."""
    real = tmp_path / "real.txt"
    real.write_text("old")
    (tmp_path / "link.txt").symlink_to(real)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "made.txt")
    write_whole(tmp_path / "link.txt", "new")
    write_whole(tmp_path / "dangling.txt", "new")

    assert (tmp_path / "link.txt").is_symlink()
    assert "new" == real.read_text() == (tmp_path / "made.txt").read_text()


def mode(file):
    return stat.S_IMODE(file.stat().st_mode)


@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o664, 0o755])
def test_permissions_are_kept(permissions, tmp_path):
    """An existing file keeps its permissions."""
    file = tmp_path / "report.txt"
    file.write_text("old")
    file.chmod(permissions)
    write_whole(file, "new")

    assert oct(permissions) == oct(mode(file))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_usual_permissions(mask, tmp_path):
    """A new file has the same permissions as a file made by `open`, and the umask is unchanged."""
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "ours.txt", "x")
        (tmp_path / "theirs.txt").write_text("x")
        assert mask == os.umask(mask)
    finally:
        os.umask(before)

    assert oct(mode(tmp_path / "theirs.txt")) == oct(mode(tmp_path / "ours.txt"))


def test_line_ends_are_not_translated(tmp_path):
    """Line ends are written unchanged, so that a file is the same on every system."""
    write_whole(tmp_path / "r.txt", "a\nb\n")

    assert b"a\nb\n" == (tmp_path / "r.txt").read_bytes()


def test_many_writers_at_once(tmp_path):
    """A file that several threads save at once is complete whenever it is loaded."""
    file = tmp_path / "report.json"
    REPORT.save(file)
    stop = threading.Event()

    def save():
        while not stop.is_set():
            REPORT.save(file)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    loaded = [Report.load(file) for _ in range(100)]
    stop.set()
    for thread in threads:
        thread.join()

    assert {REPORT} == set(loaded)
    assert ["report.json"] == os.listdir(tmp_path)


def test_suffixes_of_other_formats():
    """`format_of` also accepts other formats with their own suffixes."""
    formats = {"text": ".txt", "markdown": ".md", "plain": ""}

    assert ["text", "markdown"] == [format_of(name, formats) for name in ("a.TXT", "b.md")]
    with pytest.raises(ValueError, match=r"'a.json': the suffix .* must be one of \.txt \(text\), \.md \(markdown\)$"):
        format_of("a.json", formats)
