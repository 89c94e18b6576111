"""Workloads of optional packages, made once a file."""

import importlib.util

import pytest


def made_once(packages, make):
    """A function that gives the workload of a name, and skips the test where its data package is not installed."""
    cache = {}

    def get(name):
        if importlib.util.find_spec(packages[name]) is None:
            pytest.skip(f"the data of {name} are not installed ({packages[name]})")
        if name not in cache:
            cache[name] = make(name)
        return cache[name]

    return get
