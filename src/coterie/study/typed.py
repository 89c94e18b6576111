"""What users type in a shell: names, losses, files with losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coterie.errors import SettingError


def read_names(text: str, option: str) -> list[str]:
    """Names with commas between them."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise SettingError(f"{option} should be names with commas between them. Found {text!r:.80}.")
    return found


def read_shares(text: str, option: str) -> dict[str, float]:
    """``web=0.7,code=0.3`` as a mapping.

    Example:
        >>> read_shares("web=0.7, code=.3", "--mixture")
        {'web': 0.7, 'code': 0.3}
    """
    found: dict[str, float] = {}
    for pair in text.split(","):
        name, mark, value = pair.strip().rpartition("=")
        try:
            number = float(value)
        except ValueError:
            mark, number = "", 0.0
        if not mark or not name or name in found:
            raise SettingError(
                f"{option} should be name=number for each name once, with commas between them, such as "
                f"web=0.7,code=0.3. Found {pair!r:.60}."
            )
        found[name] = number
    return found


def read_pairs(pairs: list[str], option: str) -> dict[str, Any]:
    """``a=0.31 c=0.42+-0.01 d=trained`` as a mapping."""
    from coterie.study.losses import TRAINED
    from coterie.study.table import read_number

    found: dict[str, Any] = {}
    for pair in pairs:
        task, mark, value = pair.rpartition("=")
        try:
            loss = None if value == TRAINED else read_number(value)
        except ValueError:
            mark, loss = "", None
        if not mark or not task or task in found:
            raise SettingError(
                f"{option} should be task=loss for each task once, such as a=0.31, a=0.31+-0.02 with a standard error, "
                f"or a=trained where it was not measured. Found {pair!r:.80}. A training that diverged is told with "
                "--failed."
            )
        found[task] = loss
    return found


def read_losses_file(path: Path) -> dict[str, Any]:
    """Losses in a file of JSON or CSV."""
    from coterie.training.command import read_report_file

    try:
        return read_report_file(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"--file: {str(path)!r} holds no losses: {error}.") from error
