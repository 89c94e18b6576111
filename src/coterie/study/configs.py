"""A mixture of data sets, or the adapters of groups, as configuration files of training frameworks.

What each framework reads was checked against these releases: TRL 1.16, LLaMA-Factory 0.9.5, axolotl 0.19, mergekit
0.1.5 and ``datasets`` 5.2. None of them is imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from coterie._check import choice, is_number, plain, whole_number
from coterie._surface import known_arguments
from coterie.errors import SettingError

#: what a file of a data set is called by ``datasets.load_dataset``
_LOADERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
#: shares are written with so many decimals: a millionth of a run is less than any of its batches
_DECIMALS = 6
#: how far from 1 given shares may add up to, as numbers of a table with four decimals do
_CLOSE = 1e-3


@dataclass(frozen=True)
class _MixedSource:
    """One source of a mixture that is trained on."""

    name: str
    share: float
    path: str
    rows: int | None

    @property
    def file(self) -> str | None:
        """What ``load_dataset`` calls its kind of file; None for a name on a hub or a folder."""
        return _LOADERS.get(PurePosixPath(self.path).suffix.lower())


@known_arguments
def mixture_config(
    shares: Mapping[str, float],
    to: str,
    *,
    paths: Mapping[str, str] | None = None,
    rows: Mapping[str, int] | None = None,
    total: int | None = None,
    seed: int = 0,
    row_type: str = "chat_template",
) -> str:
    """Text of a file with which a training framework mixes data sets in given shares.

    Args:
        shares: share of each source in the examples of a run; they add up to 1. Sources with 0 are left out.
        to: ``"huggingface"`` (a Python script on ``datasets.interleave_datasets``), ``"trl"``, ``"llama-factory"`` or
            ``"axolotl"`` (pieces of their YAML files).
        paths: where a source lies: a file (.json, .jsonl, .csv, .parquet, .txt) or what the framework calls it; for
            LLaMA-Factory its name in ``dataset_info.json``. The source's own name where there is none.
        rows: examples that a source has. Axolotl needs them, since it takes rows and no shares; elsewhere they let the
            file say how often an example is seen.
        total: examples of the whole run; None for as many as the sources give: without repeating any where the
            framework cannot repeat (TRL, axolotl), otherwise until each has been seen once.
        seed: of the order in which sources take turns.
        row_type: how axolotl turns rows into prompts, its key ``type``.

    Returns:
        The text; comments in it say what was left out and what repeats.

    Raises:
        SettingError: for shares that are no shares, unknown sources in `paths` or `rows`, an unknown framework, rows
            that are missing, or a total for which a source has too few rows and the framework cannot repeat any.

    Example:
        >>> print(mixture_config({"code": 0.25, "chat": 0.75, "web": 0.0}, "llama-factory"))
        # shares of the examples of a run; left out: web
        dataset: "code,chat"
        mix_strategy: "interleave_over"
        interleave_probs: "0.25,0.75"
        seed: 0
        <BLANKLINE>
    """
    choice(to, "to", _WRITERS)
    parts, left_out = _parts(shares, paths or {}, rows or {})
    if total is not None:
        total = whole_number(total, "total", low=1)
    head = "# shares of the examples of a run"
    head += f"; left out: {', '.join(map(_comment, left_out))}" if left_out else ""
    body = _WRITERS[to](parts, _FileOptions(total, whole_number(seed, "seed", low=0), row_type))
    return "\n".join([head, *_repeats(parts, total, to), *body, ""])


@known_arguments
def merge_config(
    adapters: Mapping[str, str], base_model: str, *, weights: Mapping[str, float] | None = None, dtype: str = "bfloat16"
) -> str:
    """Text of a mergekit file that merges the LoRA adapters of groups into one model, ``merge_method: linear``.

    The method takes the weighted mean of the models. What such a model loses against serving each group is for a run to
    tell: no group was trained on its like.

    Args:
        adapters: group -> folder of its adapter.
        base_model: the model on which all of them stand.
        weights: of the groups, positive; alike where there are none. Only their ratios count.
        dtype: of the merged model.

    Raises:
        SettingError: for no adapters, a weight that is not positive, or one of an unknown group.

    Example:
        >>> print(merge_config({"a": "out/a", "b": "out/b"}, "base", weights={"a": 3, "b": 1}))
        merge_method: "linear"
        base_model: "base"
        models:
          - model: "base+out/a"  # a
            parameters:
              weight: 0.75
          - model: "base+out/b"  # b
            parameters:
              weight: 0.25
        dtype: "bfloat16"
        <BLANKLINE>
    """
    if not adapters:
        raise SettingError("Parameter `adapters` is empty. Name the folder of each group's adapter.")
    given = weights or dict.fromkeys(adapters, 1.0)
    _known(given, adapters, "weights")
    chosen = _numbers({name: given.get(name, 0.0) for name in adapters}, "weights")
    if min(chosen.values()) <= 0:
        raise SettingError(f"Parameter `weights` should have a positive number for each group. Found {dict(given)}.")
    whole = math.fsum(chosen.values())
    lines = ['merge_method: "linear"', f"base_model: {json.dumps(base_model)}", "models:"]
    for name, folder in adapters.items():
        lines += [
            f"  - model: {json.dumps(f'{base_model}+{folder}')}  # {_comment(name)}",
            "    parameters:",
            f"      weight: {round(chosen[name] / whole, _DECIMALS)}",
        ]
    return "\n".join([*lines, f"dtype: {json.dumps(dtype)}", ""])


@dataclass(frozen=True)
class _FileOptions:
    """What a file says beside the shares."""

    total: int | None
    seed: int
    row_type: str


def _known(given: Mapping[str, Any], names: Mapping[str, Any], parameter: str) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise SettingError(f"Parameter `{parameter}` names {unknown[0]!r}, which is none of {', '.join(names)}.")


def _numbers(given: Mapping[str, Any], parameter: str) -> dict[str, float]:
    found = {name: plain(value) for name, value in given.items()}
    for name, value in found.items():
        if not (is_number(value) and math.isfinite(value)):
            raise SettingError(f"Parameter `{parameter}` should have a finite number for {name!r}. Found {value!r}.")
    return {name: float(value) for name, value in found.items()}


def _parts(
    shares: Mapping[str, float], paths: Mapping[str, str], rows: Mapping[str, int]
) -> tuple[list[_MixedSource], list[str]]:
    """The sources that are trained on, with shares that add up to 1, and the names of the others."""
    _known(paths, shares, "paths")
    _known(rows, shares, "rows")
    numbers = _numbers(shares, "shares")
    if not numbers or min(numbers.values()) < 0 or abs(math.fsum(numbers.values()) - 1) > _CLOSE:
        raise SettingError(
            "Parameter `shares` should have a share of at least 0 for each source, which add up to 1. "
            f"Found {numbers} with the sum {math.fsum(numbers.values()):.6g}."
        )
    whole = math.fsum(numbers.values())
    rounded = {name: round(share / whole, _DECIMALS) for name, share in numbers.items()}
    largest = max(rounded, key=lambda name: rounded[name])
    rest = math.fsum(share for name, share in rounded.items() if name != largest)
    rounded[largest] = round(1 - rest, _DECIMALS)
    counted = {name: whole_number(count, f"rows[{name!r}]", low=1) for name, count in rows.items()}
    kept = [
        _MixedSource(name, share, str(plain(paths.get(name, name))), counted.get(name))
        for name, share in rounded.items()
        if share > 0
    ]
    return kept, [name for name, share in rounded.items() if share <= 0]


def _comment(text: str) -> str:
    """A name as part of a comment: on one line, and nothing in it that readers of YAML refuse."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def _repeats(parts: Sequence[_MixedSource], total: int | None, to: str) -> list[str]:
    """Comments on how often the examples of a source are seen, where that is known."""
    if to in _ONCE or any(part.rows is None for part in parts):
        return []
    # until each source has been seen once, the one with the most rows to its share decides
    length = total or max(math.ceil(part.rows / part.share) for part in parts if part.rows)
    seen = [f"{_comment(part.name)} {part.share * length / part.rows:.2g} x" for part in parts if part.rows]
    return [f"# about {length} examples; how often each is seen: {', '.join(seen)}"]


def _counts(parts: Sequence[_MixedSource], options: _FileOptions, to: str) -> dict[str, int]:
    """Rows of each source, where none can be repeated."""
    missing = [part.name for part in parts if part.rows is None]
    if missing:
        raise SettingError(
            f"Parameter `rows` has no number for {', '.join(missing)}. What is written for {to} counts rows, of which "
            "none is repeated: say how many examples each source has."
        )
    room = min((part.rows or 0) / part.share for part in parts)
    total = options.total or math.floor(room)
    if total > room + 1:
        tight = min(parts, key=lambda part: (part.rows or 0) / part.share)
        raise SettingError(
            f"Parameter `total` should be at most {math.floor(room)}. Found {total}: {tight.name!r} has {tight.rows} "
            f"rows for a share of {tight.share:g}, and {to} repeats none. Give a smaller total, or cap the share."
        )
    return {part.name: max(1, min(part.rows or 0, round(part.share * total))) for part in parts}


def _huggingface(parts: Sequence[_MixedSource], options: _FileOptions) -> list[str]:
    lines = ["from datasets import interleave_datasets, load_dataset", "", "sources = ["]
    for part in parts:
        kind = f"{part.file!r}, data_files={part.path!r}" if part.file else f"{part.path!r}"
        lines.append(f'    load_dataset({kind}, split="train"),  # {_comment(part.name)}')
    lines += [
        "]",
        "mixture = interleave_datasets(",
        "    sources,",
        f"    probabilities={[part.share for part in parts]!r},",
        f"    seed={options.seed},",
        '    stopping_strategy="all_exhausted",',
        ")",
    ]
    if options.total:
        # a run that is longer than one pass goes through the mixture again
        lines.append(f"mixture = mixture.select([row % len(mixture) for row in range({options.total})])")
    return lines


def _llama_factory(parts: Sequence[_MixedSource], options: _FileOptions) -> list[str]:
    for part in parts:
        if "," in part.path:
            raise SettingError(
                f"Parameter `paths` has the name {part.path!r}: LLaMA-Factory lists names with commas between them. "
                "Give the data set another name in dataset_info.json."
            )
    return [
        f"dataset: {json.dumps(','.join(part.path for part in parts))}",
        'mix_strategy: "interleave_over"',
        f"interleave_probs: {json.dumps(','.join(f'{part.share:.{_DECIMALS}g}' for part in parts))}",
        f"seed: {options.seed}",
    ]


def _located(part: _MixedSource) -> dict[str, Any]:
    """A source as an entry of TRL's list."""
    return {"path": part.file, "data_files": part.path} if part.file else {"path": part.path}


def _listed(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A list ``datasets`` of YAML; texts as in JSON, which YAML reads alike."""
    lines = ["datasets:"]
    for name, entry in entries:
        mark = "  - "
        for key, value in entry.items():
            lines.append(f"{mark}{key}: {json.dumps(value)}" + (f"  # {_comment(name)}" if mark == "  - " else ""))
            mark = "    "
    return lines


def _trl(parts: Sequence[_MixedSource], options: _FileOptions) -> list[str]:
    if options.total is None:
        return _listed([(part.name, {**_located(part), "split": "train", "fraction": part.share}) for part in parts])
    counts = _counts(parts, options, "TRL")
    return _listed([(part.name, {**_located(part), "split": f"train[:{counts[part.name]}]"}) for part in parts])


def _axolotl(parts: Sequence[_MixedSource], options: _FileOptions) -> list[str]:
    counts = _counts(parts, options, "axolotl")
    entries: list[tuple[str, Mapping[str, Any]]] = []
    for part in parts:
        entry: dict[str, Any] = {"path": part.path} | ({"ds_type": part.file} if part.file else {})
        entries.append((part.name, {**entry, "split": f"train[:{counts[part.name]}]", "type": options.row_type}))
    return [*_listed(entries), "shuffle_merged_datasets: true", f"seed: {options.seed}"]


_WRITERS = {"huggingface": _huggingface, "trl": _trl, "llama-factory": _llama_factory, "axolotl": _axolotl}
#: frameworks that show no example twice
_ONCE = ("trl", "axolotl")
