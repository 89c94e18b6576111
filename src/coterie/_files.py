"""Files that are whole or not there, written where they were meant to go and nowhere else.

The rooms share these few functions, so that no file is written or read in another way: what is written is atomic and
synced and follows no link that somebody planted; what is read is a regular file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from coterie.errors import StoreError

_PREFIX, _SUFFIX = ".coterie-", ".tmp"
#: temporaries of atomic writes, the only ones that may be deleted outside a run directory
_TEMPORARY = re.compile(r"\.coterie-\d+-[0-9a-f]{16}\.tmp")
#: seconds after which a temporary belongs to a process that was killed: writing one takes far less
_STALE = 3600.0
#: Windows opens no directories; there, paths are used and the directory is looked at before
_BY_DESCRIPTOR = sys.platform != "win32" and os.open in os.supports_dir_fd
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_PLAIN = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class Place:
    """A directory held open: what is written goes into it also when its path has come to mean another directory.

    Args:
        path: of the directory.
        inside: the directory that it is in; a link is then refused.

    Raises:
        OSError: it cannot be opened, or `inside` is given and it is a link.
    """

    def __init__(self, path: Path, *, inside: Place | None = None) -> None:
        self.path = path
        self._descriptor: int | None = None
        if inside is not None and path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if _BY_DESCRIPTOR:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            if inside is None:
                self._descriptor = os.open(path, flags)
            else:
                self._descriptor = os.open(path.name, flags | _NO_FOLLOW, dir_fd=inside._descriptor)
        found = os.stat(path) if self._descriptor is None else os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        self._finalizer = weakref.finalize(self, _close, self._descriptor)

    def close(self) -> None:
        """Let the directory go; harmless when called twice."""
        self._finalizer()
        self._descriptor = None

    @property
    def same(self) -> bool:
        """Whether the path still leads to this directory."""
        with suppress(OSError):
            found = os.stat(self.path)
            return (found.st_dev, found.st_ino) == self._identity
        return False

    def open(self, name: str, flags: int) -> int:
        """A descriptor of a regular file with no other name, for writing; links are refused.

        Raises:
            OSError: as the system says; ELOOP for a link, EMLINK for a file that has another name elsewhere.
        """
        descriptor = os.open(self._at(name), flags | _NO_FOLLOW | _PLAIN, 0o666, dir_fd=self._descriptor)
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            number = errno.EMLINK if stat.S_ISREG(found.st_mode) else errno.ENODEV
            raise OSError(number, os.strerror(number))
        return descriptor

    def write(self, name: str, data: bytes) -> None:
        """Write a file so that it is either the old one or the new one, also after a kill or a power cut.

        A temporary file of a name that nobody can know before, flush, fsync, rename, fsync of the directory.

        Raises:
            OSError: as the system says.
        """
        with suppress(FileNotFoundError):
            mode = os.stat(self._at(name), dir_fd=self._descriptor).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        temporary = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}{_SUFFIX}"
        descriptor = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        where = {"src_dir_fd": self._descriptor, "dst_dir_fd": self._descriptor}
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._at(temporary), self._at(name), **where)
        except BaseException:
            with suppress(OSError):
                os.unlink(self._at(temporary), dir_fd=self._descriptor)
            raise
        self._sync()

    def _at(self, name: str) -> str | Path:
        return self.path / name if self._descriptor is None else name

    def _sync(self) -> None:
        """Make a rename durable; some systems cannot sync directories, and then there is nothing to do."""
        try:
            if self._descriptor is not None:
                os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        with suppress(OSError):
            os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write the whole file or none; what others left beside it stays.

    Raises:
        StoreError: when the file cannot be written.
    """
    with writing(path, len(data)):
        place = Place(path.parent)
        try:
            place.write(path.name, data)
        finally:
            place.close()


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a file so that it is either the old one or the new one, also after a kill or a power cut.

    A link at `path` is replaced, never followed. What killed processes left half-written beside it an hour ago or more
    is deleted.

    Raises:
        StoreError: when the file cannot be written (no space, read-only, no such directory, a device).
    """
    path = user_path(path)
    write_whole(path, data)
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not _TEMPORARY.fullmatch(entry.name):
                continue
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE:
                os.unlink(entry.path)


@contextmanager
def writing(path: Path, size: int = 0) -> Generator[None]:
    """Refusals of the system while something is written, in clear words.

    Raises:
        StoreError: see :func:`write_error`.
    """
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise write_error(error, path, size) from error
    except ValueError as error:  # a path with a NUL, or letters that the file system does not have
        raise StoreError(f"Cannot write {str(path)!r}: {error}. Choose another name with `out`.") from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise directory_error(error, path) from error
    except ValueError as error:
        raise StoreError(f"The directory {str(path)!r} cannot be created: {error}. Choose another name.") from error


def user_path(path: str | Path) -> Path:
    """A path that a user gave, with ``~`` and ``~name`` at its beginning read as a home directory, as in a shell."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody of that name
        return Path(path)


def absolute(path: Path) -> Path:
    """The path from the root on.

    Raises:
        StoreError: it is relative and the working directory was deleted.
    """
    try:
        return user_path(path).absolute()
    except OSError as error:
        raise StoreError(
            f"The path {str(path)!r} is relative to the working directory, which was deleted ({error.strerror}). "
            "Change into another directory, or give an absolute path."
        ) from error


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; pipes and devices, which may never end, are refused.

    Raises:
        StoreError: there is no such file, or it cannot be read.
    """
    try:
        # without waiting for the other end of a pipe
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | _PLAIN
        descriptor = os.open(user_path(path), flags)
        if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
            os.close(descriptor)
            kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise StoreError(f"Cannot read {str(path)!r}: it is {kind}. Give the path of a file.")
        with os.fdopen(descriptor, "rb") as file:
            return file.read()
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"There is no file {str(path)!r}. Check the path.") from error
    except OSError as error:
        raise StoreError(f"Cannot read {str(path)!r}: {error.strerror or error}. Check the path.") from error
    except ValueError as error:
        raise StoreError(f"Cannot read {str(path)!r}: {error}. Check the path.") from error


def need_directory(path: Path) -> None:
    """Whether a file may be written at a path as far as its directory goes; nothing is made.

    Raises:
        StoreError: the directory is not there or is a file.
    """
    if not path.parent.is_dir():
        number = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
        raise write_error(OSError(number, os.strerror(number)), path)


def directory_error(error: OSError, path: Path) -> StoreError:
    """The clear form of an operating system's refusal to make a directory."""
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        cause = "a part of this path is a file, not a directory"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cause = "the directory above it is read-only for this user"
    elif error.errno == errno.ENOENT:
        cause = "the system does not allow new directories there"
    else:
        cause = f"the system said: {error.strerror or error}"
    return StoreError(f"The directory {str(path)!r} cannot be created: {cause}. Choose another directory with `out`.")


def write_error(error: OSError, path: Path, size: int = 0) -> StoreError:
    """The clear form of an operating system's refusal to write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = f"there is no space left for {size:,} bytes. Free some space and run again: finished units are kept"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cause = "the directory is read-only for this user. Choose another directory with `out`"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST):
        cause = "a part of this path is a file, not a directory. Choose another directory with `out`"
    elif error.errno == errno.EISDIR:
        cause = "this is a directory. Give the path of a file with `out`"
    elif error.errno == errno.ENOENT:
        cause = "its directory does not exist (any more). Create it or choose another with `out`"
    elif error.errno == errno.EMLINK:
        cause = (
            "this file has another name elsewhere (a hard link, as `cp -al` makes them) and would change there too. "
            "Copy the directory with `cp -a` instead, delete this file if it is a lock that nobody holds, or choose "
            "another directory with `out`"
        )
    elif error.errno == errno.ELOOP:
        cause = (
            "a link stands there, and what is behind it may belong to something else. Look where it leads, delete the "
            "link, or choose another directory with `out`"
        )
    elif error.errno in (errno.ENODEV, errno.ENXIO):
        cause = "a pipe or a device stands there, no file. Give the path of a file with `out`"
    else:
        cause = f"the system said: {error.strerror or error}"
    return StoreError(f"Cannot write {str(path)!r}: {cause}.")


def remove_temporary(directory: Path) -> int:
    """Delete what a killed process left half-written; returns how many files that were."""
    count = 0
    for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError):  # a directory of that name is none of ours
            path.unlink()
            count += 1
    return count
