"""Where a study is kept: Optuna's storages, opened by a path or an address."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie._files import absolute, make_directory, user_path
from coterie.errors import CoterieError, MissingDependencyError, SettingError, StoreError, require

#: ends of names of files that several processes append to, and of SQLite files
JOURNALS, SQLITE = (".journal", ".jsonl", ".log"), (".db", ".sqlite", ".sqlite3")
#: seconds after which the lock of a journal file is taken from a process that was killed while it wrote
_LOCK_SECONDS = 10
#: seconds that a process waits for others that write to the same SQLite file
_SQLITE_SECONDS = 120
#: beginnings of addresses, and the packages that bring their drivers
_DRIVERS = {
    "postgresql": "'psycopg[binary]'",
    "postgresql+psycopg2": "psycopg2-binary",
    "mysql": "mysqlclient",
    "mysql+pymysql": "pymysql",
}


def default_path(name: str) -> Path:
    """The journal file of a study that is kept nowhere else.

    Example:
        >>> default_path("my study").as_posix()
        'runs/my-study/study.journal'
    """
    return Path("runs") / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "study") / "study.journal"


def open_storage(storage: Any, name: str, *, create: bool) -> tuple[Any, str]:
    """An Optuna storage, and what to call it in messages.

    Args:
        storage: a path (a journal file or an SQLite file, by its end), the address of a database as SQLAlchemy reads
            it, a storage of Optuna, or None for :func:`default_path`.
        name: of the study.
        create: whether a file may be made.

    Raises:
        SettingError: for anything else.
        StoreError: when it cannot be opened.
        MissingDependencyError: without Optuna, or the driver of the database.
    """
    optuna = _optuna()
    if storage is not None and not isinstance(storage, str | Path):
        if isinstance(storage, optuna.storages.BaseStorage):
            return storage, f"the storage {type(storage).__name__}"
        raise SettingError(_wanted(storage))
    text = str(default_path(name) if storage is None else storage)
    if "://" in text:
        return _database(optuna, text, create)
    path = absolute(user_path(text))
    if path.suffix not in JOURNALS + SQLITE:
        raise SettingError(_wanted(storage))
    _prepare(path, name, create)
    if path.suffix in SQLITE:
        return _database(optuna, f"sqlite:///{path}", create)[0], repr(str(path))
    journal = optuna.storages.journal
    kind = journal.JournalFileOpenLock if sys.platform == "win32" else journal.JournalFileSymlinkLock
    with reaching(repr(str(path))):
        # an absolute path: the lock is a link beside the file, and a relative one would lead nowhere
        backend = journal.JournalFileBackend(str(path), lock_obj=kind(str(path), grace_period=_LOCK_SECONDS))
        return optuna.storages.JournalStorage(backend), repr(str(path))


def _prepare(path: Path, name: str, create: bool) -> None:
    """The directory of a file, or an error where the file should be there."""
    if create:
        make_directory(path.parent)
    elif not path.is_file():
        raise StoreError(
            f"There is no study {name!r} in {str(path)!r}: there is no such file. Check `storage`, or make the study "
            "with coterie.create_study (coterie study create)."
        )


def _optuna() -> Any:
    return require("optuna", extra="study", purpose="A study")


def _wanted(storage: object) -> str:
    return (
        f"Parameter `storage` should be a path that ends with {', '.join(JOURNALS)} (a journal file) or "
        f"{', '.join(SQLITE)} (SQLite), an address such as postgresql://user@host/name, a storage of Optuna, or None "
        f"for runs/NAME/study.journal. Found {storage!r:.120}."
    )


def _database(optuna: Any, address: str, create: bool) -> tuple[Any, str]:
    """A storage in a database; its tables are made where they are missing, also by several processes at once."""
    sqlalchemy = require("sqlalchemy", extra="study", purpose="A study in a database")
    try:
        url = sqlalchemy.engine.make_url(address)
    except Exception as error:
        raise SettingError(f"{_wanted(address)} It cannot be read: {error}.") from error
    name = repr(url.render_as_string(hide_password=True))
    lite = url.get_backend_name() == "sqlite"
    if lite and url.database and url.database != ":memory:":
        _prepare(absolute(Path(url.database)), name, create)
    options = {"connect_args": {"timeout": _SQLITE_SECONDS}} if lite else {"pool_pre_ping": True}
    for attempt in range(5):
        try:
            return optuna.storages.RDBStorage(address, engine_kwargs=options), name
        except ImportError as error:
            package = _DRIVERS.get(url.drivername, "its driver")
            raise MissingDependencyError(
                f"The storage {name} needs a driver of this database ({error}). Install it, for example with: "
                f"pip install {package}"
            ) from error
        except Exception as error:
            if attempt == 4 or not _raced(error):
                raise _unreachable(name, error) from error
            time.sleep(0.1 * (attempt + 1))
    raise AssertionError("the last attempt returns or raises")


def _raced(error: Exception) -> bool:
    """Whether another process made the same table at the same moment."""
    return any(text in str(error) for text in ("already exists", "UNIQUE constraint", "duplicate key"))


def _unreachable(name: str, error: Exception) -> StoreError:
    said = " ".join(str(getattr(error, "orig", None) or error.__cause__ or error).split())[:300]
    return StoreError(
        f"The storage {name} of the study cannot be used: {type(error).__name__}: {said}. Check that it can be reached "
        "from here, that it may be written to, and that it is one of Optuna's. What was told before is kept there."
    )


@contextmanager
def reaching(name: str) -> Generator[None]:
    """Errors of a storage in clear words.

    Raises:
        StoreError: for whatever Optuna, SQLAlchemy and the system raise.
    """
    try:
        yield
    except CoterieError:
        raise
    except Exception as error:
        home = type(error).__module__.split(".")[0]
        if home in ("optuna", "sqlalchemy", "json") or isinstance(error, OSError | ValueError | KeyError):
            raise _unreachable(name, error) from error
        raise


@contextmanager
def quiet(optuna: Any) -> Generator[None]:
    """Leave out what Optuna only informs of; afterwards it says as much as before."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
