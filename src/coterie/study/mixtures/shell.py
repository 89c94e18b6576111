"""Studies of mixtures in a shell: what commands read and print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coterie._json import parse_json, to_plain
from coterie.errors import CoterieError, SettingError
from coterie.study.results import Floats
from coterie.study.table import read_cells, read_number

if TYPE_CHECKING:
    from coterie.cli.session import Session
    from coterie.study.mixtures.recommend import MixtureRecommendation
    from coterie.study.mixtures.study import MixtureStudy


def is_harness(path: Path) -> bool:
    """Whether a file, or what is in a folder, is what lm-evaluation-harness writes."""
    if path.is_dir():
        return True
    try:
        data = parse_json(path.read_bytes())
    except (OSError, ValueError, CoterieError):
        return False
    return isinstance(data, Mapping) and isinstance(data.get("results"), Mapping)


def predict_mixtures(study: MixtureStudy, table: Any, predictor: Any) -> tuple[Floats, Floats]:
    """Numbers of the mixtures of a table with a column a source, and their standard errors.

    Raises:
        SettingError: a column that is no source, a cell that is no share.
    """
    columns, rows, where = read_cells(table)
    mixtures: list[dict[str, float]] = []
    for line, cells in rows:
        given = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
        try:
            mixtures.append({name: read_number(cell)[0] for name, cell in given.items()})
        except ValueError as error:
            raise SettingError(f"{where}, line {line}: {error}.") from None
    return study.predict(mixtures, predictor=predictor)


def emit_recommendation(s: Session, study: MixtureStudy, found: MixtureRecommendation) -> None:
    """Print what a study of mixtures recommends."""
    if s.as_json:
        s.emit({"study": study.name, **to_plain(found.to_dict())})
        return
    from coterie.cli.tables import print_table

    s.say(found.text)
    shares = sorted(found.mixture.items(), key=lambda pair: -pair[1])
    print_table(s.console, ("source", "share"), [(name, f"{100 * share:.1f} %") for name, share in shares])
    rows = [
        (one.name, f"{one.objective:.4g}", str(one.gain or ""), str(one.measured or ""), one.seeds)
        for one in found.candidates
    ]
    print_table(s.console, ("mixture", "objective", "gain of the recommended", "measured", "seeds"), rows)
    targets = [
        (
            one.target, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", f"{one.alone:.4g}",
            f"{one.skill:.2f}", "yes" if one.steerable else "no",
        )
        for one in found.targets
    ]  # fmt: skip
    head = ("target", "expected", "95 %", "best for it alone", "predictable", "steerable")
    print_table(s.console, head, targets)
    if found.dropped:
        s.say(f"Each of these can be left out for nothing: {', '.join(found.dropped)}.")
    for one in found.sizes:
        s.say(one.text)
    if found.groups is not None:
        worth = "worth it" if found.groups.worth else "not known to be worth it"
        s.say(f"{found.groups.models} mixtures in place of one: {found.groups.gain}, {worth}.")
    if found.confirm:
        s.say(f"{len(found.confirm)} runs with fresh seeds would confirm it; `coterie study ask` asks for them.")


def shown_numbers(values: Floats, errors: Floats) -> list[list[str]]:
    """Cells of a table of values with standard errors."""
    pairs = zip(values.tolist(), errors.tolist(), strict=True)
    return [[f"{v:.4g} +- {e:.2g}" if np.isfinite(v) else "" for v, e in zip(*row, strict=True)] for row in pairs]
