"""Files and directories that survive a power cut once they are acknowledged.

Every write of the lake goes through these functions or is followed by one of them, so a test can
watch the fsyncs and make each of them fail.
"""

import os
import shutil
from pathlib import Path


def fsync_file(path: Path) -> None:
    """Have a file's content on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Have a directory's list of names on the disk."""
    fsync_file(path)


def fsync_tree(path: Path) -> None:
    """Have every file and directory under a path, and the path itself, on the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            fsync_file(Path(folder, name))
        fsync_directory(Path(folder))


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, each durably."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync_directory(path.parent)


def move_into_place(source: Path, target: Path) -> None:
    """Rename durably; the target's directory is made if missing."""
    make_directory(target.parent)
    source.rename(target)
    fsync_directory(target.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that readers see either nothing or all of it."""
    staged = path.with_name(path.name + ".new")
    staged.write_text(text, encoding="utf-8")
    fsync_file(staged)
    staged.replace(path)
    fsync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file durably; a file that is already gone is fine."""
    path.unlink(missing_ok=True)
    fsync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory with all it holds, durably."""
    shutil.rmtree(path)
    fsync_directory(path.parent)
