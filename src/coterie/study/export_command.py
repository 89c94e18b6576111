"""``coterie study export``: what a study recommends, as configuration of training frameworks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coterie.cli.options import Debug, Json, Quiet
from coterie.errors import SettingError
from coterie.study.shell import Name, Storage, opened

if TYPE_CHECKING:
    from coterie.study.study import Study

#: what is written; a mixture for the first ones, adapters of groups for the last
FORMATS = ("huggingface", "trl", "llama-factory", "axolotl", "mergekit")


def export(
    name: Name,
    to: Annotated[str, typer.Option("--to", metavar="|".join(FORMATS), help="Whose configuration.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file, or a folder for several.", show_default="the terminal"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE.json", help='{"SOURCE": {"path": "...", "rows": 1000}}, each optional.'),
    ] = None,
    total: Annotated[int | None, typer.Option("--total", min=1, help="Examples of a run.")] = None,
    base_model: Annotated[str, typer.Option("--base-model", help="What adapters stand on, for mergekit.")] = "",
    adapters: Annotated[
        str, typer.Option("--adapters", metavar="A,B", help="Folder of each group's adapter, in order, for mergekit.")
    ] = "",
    storage: Storage = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write what a study recommends as configuration: the mixture, or equal shares of the tasks of each group.

    Example: [bold]coterie study export mine --to llama-factory --out mixture.yaml[/bold]
    """
    with opened(name, storage, as_json=as_json, quiet=quiet, debug=debug) as (s, study):
        from coterie._check import choice
        from coterie.study.configs import mixture_config

        choice(to, "--to", FORMATS)
        shares = recommended_shares(study)
        if to == FORMATS[-1]:
            texts = {"merge": _merged(shares, base_model, [one for one in adapters.split(",") if one])}
        else:
            paths, rows = _read_data(data)
            texts = {
                label: mixture_config(
                    one, to, total=total,
                    paths={key: path for key, path in paths.items() if key in one},
                    rows={key: count for key, count in rows.items() if key in one},
                )
                for label, one in shares.items()
            }  # fmt: skip
        written = _write(texts, out, ".py" if to == "huggingface" else ".yaml")
        if s.as_json:
            s.emit({"study": name, "shares": shares, "configurations": texts, "files": [str(path) for path in written]})
        elif written:
            for path in written:
                s.say(str(path))
        else:
            for line in "\n".join(texts.values()).splitlines():  # what is said in one piece is one paragraph
                s.say(line)


def recommended_shares(study: Study) -> dict[str, dict[str, float]]:
    """Name of a model -> share of each source that it is to be trained on: the recommended mixtures, or groups."""
    from coterie.study.mixtures.study import MixtureStudy

    if isinstance(study, MixtureStudy):
        found = study.recommend()
        if found.groups is not None and found.groups.worth:
            return {f"mixture-{number}": dict(one) for number, one in enumerate(found.groups.mixtures, start=1)}
        chosen = next(one for one in found.candidates if one.name == found.recommended)
        return {"mixture": dict(chosen.mixture)}
    groups = study.recommend().groups
    return {f"group-{number}": dict.fromkeys(one, 1 / len(one)) for number, one in enumerate(groups, start=1)}


def _merged(shares: Mapping[str, Any], base_model: str, folders: list[str]) -> str:
    """One file for the adapters of all groups, by the number of sources that each was trained on."""
    from coterie.study.configs import merge_config

    if not base_model or len(folders) != len(shares):
        raise SettingError(
            f"Mergekit needs --base-model, and in --adapters a folder for each of the {len(shares)} groups, with "
            f"commas between them. Found base model {base_model!r} and {len(folders)} folders."
        )
    weights = {label: float(len(one)) for label, one in shares.items()}
    return merge_config(dict(zip(shares, folders, strict=True)), base_model, weights=weights)


def _read_data(path: Path | None) -> tuple[dict[str, str], dict[str, int]]:
    """Where sources lie, and how many rows they have."""
    from coterie._json import read_json

    given: Any = {} if path is None else read_json(path)
    if not isinstance(given, dict) or not all(isinstance(one, dict) for one in given.values()):
        raise SettingError(f'{path} should hold {{"SOURCE": {{"path": "...", "rows": 1000}}}}. Found something else.')
    paths = {str(key): str(one["path"]) for key, one in given.items() if "path" in one}
    return paths, {str(key): one["rows"] for key, one in given.items() if "rows" in one}


def _write(texts: Mapping[str, str], out: Path | None, ending: str) -> list[Path]:
    """One file, or one a model in a folder."""
    from coterie._files import atomic_write, make_directory

    if out is None:
        return []
    several = len(texts) > 1 or out.is_dir()
    make_directory(out if several else out.parent)
    places = {label: out / f"{label}{ending}" if several else out for label in texts}
    for label, place in places.items():
        atomic_write(place, texts[label].encode())
    return list(places.values())
