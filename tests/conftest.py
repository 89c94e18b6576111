"""Settings and fixtures for all tests."""

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

from coterie.executors import LocalExecutor
from reference.forked import Scripts

# how long an example takes says nothing about whether it is right, and machines are shared
settings.register_profile("coterie", deadline=None, print_blob=True)
settings.load_profile("coterie")


def pytest_collection_finish() -> None:
    """Keep the collector away from what has been imported: there are millions of objects, and none of them goes."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    """Runs scripts in processes of their own."""
    found = Scripts(tmp_path_factory.mktemp("scripts"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def two_processes() -> Iterator[LocalExecutor]:
    """An executor whose two processes have imported everything once one test has used them."""
    with LocalExecutor(2) as executor:
        yield executor
