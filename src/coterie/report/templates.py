"""Templates of self-contained pages."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from coterie.report.formats import shorten

if TYPE_CHECKING:
    from jinja2 import Template


@cache
def page_template(name: str, *packages: str) -> Template:
    """A template that stands in one of these packages; it may include those of the report."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    homes = [PackageLoader(package, package_path=".") for package in (*packages, "coterie.report")]
    environment = Environment(
        loader=ChoiceLoader(homes), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shorten"] = shorten
    return environment.get_template(name)
