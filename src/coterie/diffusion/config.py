"""The configuration of a study of time steps: what stands in the TOML file, checked before anything is trained."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from coterie._files import read_bytes
from coterie._surface import known_arguments
from coterie.balancing import METHODS
from coterie.errors import SettingError, StoreError

DATA = ("digits", "fashion-mnist")


def _key(default: Any, hint: str, *, low: float | None = None, high: float = math.inf, among: Any = None) -> Any:
    """A key of the file: its default, what it is, and what is allowed."""
    return field(default=default, metadata={"help": hint, "low": low, "high": high, "among": among})


@dataclass(frozen=True)
class DataPart:
    """Images."""

    name: str = _key("digits", "digits (scikit-learn, 8 x 8) or fashion-mnist", among=DATA)
    folder: str | None = _key(None, "folder with the four files of fashion-mnist")
    size: int | None = _key(None, "height and width of the images; left out: as they are", low=4)


@dataclass(frozen=True)
class ModelPart:
    """Denoiser."""

    channels: tuple[int, ...] = _key((16, 32), "channels of the U-Net, one number a resolution; multiples of 8", low=8)


@dataclass(frozen=True)
class SchedulePart:
    """Noise schedule."""

    kind: str = _key("linear", "linear or cosine", among=("cosine", "linear"))
    steps: int = _key(1000, "number of time steps T", low=2)
    prediction: str = _key("epsilon", "what the model predicts: epsilon, v or sample", among=("epsilon", "v", "sample"))


@dataclass(frozen=True)
class TrainingPart:
    """Every training, vanilla or balanced."""

    steps: int = _key(600, "steps of the optimiser", low=1)
    batch: int = _key(40, "images in a batch; at least one an interval", low=1)
    learning_rate: float = _key(2e-3, "of AdamW", low=0)
    ema: float = _key(0.99, "decay of the averaged weights, which are the ones evaluated", low=0, high=1)
    seeds: int = _key(3, "trainings of every method; intervals need 2", low=1)
    device: str = _key("cpu", "cpu, cuda, ...")


@dataclass(frozen=True)
class AffinityPart:
    """Affinity of time steps."""

    kind: str = _key("cosine", "cosine (of gradients) or lookahead (what a step for one does to the loss of another)",
                     among=("cosine", "lookahead"))  # fmt: skip
    stride: int = _key(50, "every so many time steps one is probed; between them the map is interpolated", low=1)
    examples: int = _key(128, "training images whose gradients are averaged", low=1)
    sketch: int = _key(4096, "numbers to which a gradient is projected; 0 keeps it whole", low=0)
    checkpoints: int = _key(2, "states of the vanilla training, evenly spaced, that are averaged over", low=1)


@dataclass(frozen=True)
class IntervalsPart:
    """Intervals of time steps, the tasks."""

    k: int = _key(5, "number of intervals", low=1)
    criterion: str = _key("snr", "snr, time or gradient (the affinity)", among=("snr", "time", "gradient"))
    snr: str = _key("log", "for snr: log or raw, as the released code has it", among=("log", "raw"))


@dataclass(frozen=True)
class BalancingPart:
    """Methods that are compared with vanilla training."""

    methods: tuple[str, ...] = _key(("equal", "uncertainty"), "equal is stratified batches alone", among=METHODS)


@dataclass(frozen=True)
class EvaluationPart:
    """Validation losses."""

    images: int = _key(300, "most validation images; the same with the same noise for every model", low=2)
    draws: int = _key(4, "time steps drawn in each interval for each image", low=1)


@dataclass(frozen=True)
class SamplesPart:
    """Drawn images."""

    count: int = _key(300, "images drawn from every model, for the Frechet distance; 64 are shown", low=2)
    steps: int = _key(25, "steps of the deterministic sampler", low=1)


@known_arguments
@dataclass(frozen=True)
class DiffusionConfig:
    """Everything that a study needs. All keys have defaults; :meth:`example` writes them with explanations.

    Raises:
        SettingError: a value of the wrong type, out of range, or at odds with another one.

    Example:
        >>> config = DiffusionConfig.from_dict({"data": {"name": "digits"}, "intervals": {"k": 3}})
        >>> config.intervals.k, config.training.steps
        (3, 600)
        >>> DiffusionConfig.from_dict({"intervals": {"kk": 3}})
        Traceback (most recent call last):
        ...
        coterie.errors.SettingError: Key `intervals.kk` of the configuration is unknown; ... Did you mean `k`? ...
    """

    data: DataPart = field(default_factory=DataPart)
    model: ModelPart = field(default_factory=ModelPart)
    schedule: SchedulePart = field(default_factory=SchedulePart)
    training: TrainingPart = field(default_factory=TrainingPart)
    affinity: AffinityPart = field(default_factory=AffinityPart)
    intervals: IntervalsPart = field(default_factory=IntervalsPart)
    balancing: BalancingPart = field(default_factory=BalancingPart)
    evaluation: EvaluationPart = field(default_factory=EvaluationPart)
    samples: SamplesPart = field(default_factory=SamplesPart)

    def __post_init__(self) -> None:
        for part in fields(self):
            section = getattr(self, part.name)
            for one in fields(section):
                _check(f"{part.name}.{one.name}", getattr(section, one.name), one)
        self._check_together()

    def _check_together(self) -> None:
        """Values that are each allowed but do not go together."""
        t, k = self.schedule.steps, self.intervals.k
        pairs = [
            ("intervals.k", k, t, "time steps", "schedule.steps"),
            ("intervals.k", k, self.training.batch, "images in a batch, so that every interval gets one",
             "training.batch"),
            ("affinity.stride", self.affinity.stride, t - 1, "time steps less one, so that two are probed",
             "schedule.steps"),
            ("affinity.checkpoints", self.affinity.checkpoints, self.training.steps, "steps of a training",
             "training.steps"),
            ("samples.steps", self.samples.steps, t, "time steps", "schedule.steps"),
        ]  # fmt: skip
        for name, value, most, what, other in pairs:
            if value > most:
                raise SettingError(
                    f"Key `{name}` of the configuration should be at most {most}, the number of {what}. Found {value}. "
                    f"Lower it, or raise `{other}`."
                )
        methods = self.balancing.methods
        if not methods or len(set(methods)) < len(methods):
            raise SettingError(
                "Key `balancing.methods` of the configuration should name at least one method, each once. Found "
                f'{list(methods)}. For example methods = ["uncertainty"]. Vanilla training is always there.'
            )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DiffusionConfig:
        """A configuration from sections of keys; what is left out has its default.

        Raises:
            SettingError: an unknown section or key, or a value that cannot be used.
        """
        sections = {part.name: part.default_factory for part in fields(cls)}
        made: dict[str, Any] = {}
        for name, keys in content.items():
            if name not in sections:
                raise SettingError(_unknown_section(name, keys))
            if not isinstance(keys, Mapping):
                raise SettingError(
                    f"Section `{name}` of the configuration should hold keys. Found {keys!r}. Write [{name}] on a line "
                    "of its own and the keys below it."
                )
            part: Any = sections[name]
            known = {one.name for one in fields(part)}
            for key in keys:
                if key not in known:
                    raise SettingError(_unknown_key(name, key, sorted(known)))
            made[name] = part(**{k: tuple(v) if isinstance(v, list) else v for k, v in keys.items()})
        return cls(**made)

    @classmethod
    def read(cls, path: str | Path) -> DiffusionConfig:
        """The configuration of a TOML file.

        Raises:
            SettingError: the file cannot be read, is no TOML, or holds something that cannot be used.
        """
        try:
            return cls.from_dict(tomllib.loads(read_bytes(path).decode("utf-8")))
        except SettingError:
            raise
        except StoreError as error:
            raise SettingError(
                f"Parameter `config` should be a TOML file. {error} "
                "`coterie diffusion --example` prints a file to start from."
            ) from error
        except (ValueError, RecursionError, ArithmeticError) as error:  # no UTF-8, no TOML, or numbers beyond all sizes
            raise SettingError(
                f"Parameter `config` should be a TOML file. Found {str(path)!r}, which is none: {error}. Texts need "
                "quotes, sections stand in brackets; `coterie diffusion --example` prints a file to start from."
            ) from error

    @classmethod
    def example(cls) -> str:
        """The defaults as a TOML file with explanations.

        Example:
            >>> DiffusionConfig.from_dict(tomllib.loads(DiffusionConfig.example())) == DiffusionConfig()
            True
        """
        lines = ["# A study of time steps as tasks: coterie diffusion --config FILE", "# Every key has this default."]
        for part in fields(cls):
            section: Any = part.default_factory
            lines += ["", f"[{part.name}]  # {section.__doc__[:-1].lower()}"]
            for one in fields(section):
                value = "# " + one.name + ' = "..."' if one.default is None else f"{one.name} = {_toml(one.default)}"
                if one.name == "size":
                    value = "# size = 16"
                lines.append(f"{value}  # {one.metadata['help']}")
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """JSON-ready sections of keys."""
        return {
            part.name: {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in vars(getattr(self, part.name)).items()
            }
            for part in fields(self)
        }


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _check(name: str, value: Any, one: Any) -> None:
    """Type, range and choice of a value; the type is that of the annotation."""
    rule, kind = one.metadata, str(one.type)
    if value is None and "None" in kind:
        return
    if kind.startswith("tuple"):
        if not isinstance(value, tuple) or not value:
            raise SettingError(_wrong(name, value, "a list with at least one entry", one))
        for entry in value:
            _check_scalar(name, entry, kind.removeprefix("tuple["), rule, one)
        return
    _check_scalar(name, value, kind, rule, one)


def _check_scalar(name: str, value: Any, kind: str, rule: Mapping[str, Any], one: Any) -> None:
    if kind.startswith("str"):
        if not isinstance(value, str):
            raise SettingError(_wrong(name, value, "a text in quotes", one))
        if rule["among"] is not None and value not in rule["among"]:
            near = difflib.get_close_matches(value, rule["among"], n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise SettingError(_wrong(name, value, "one of " + ", ".join(map(repr, sorted(rule["among"]))), one, meant))
        return
    number = (int,) if kind.startswith("int") else (int, float)
    words = "a whole number" if kind.startswith("int") else "a number"
    if isinstance(value, bool) or not isinstance(value, number) or not math.isfinite(value):
        raise SettingError(_wrong(name, value, words, one))
    # a rate of 0 trains nothing, an average with decay 1 never leaves its start
    low, high = rule["low"], rule["high"]
    too_low = value <= low if name == "training.learning_rate" else value < low
    if too_low or value > high or (name == "training.ema" and value >= high):
        limits = f"above {low}" if name == "training.learning_rate" else f"of at least {low}"
        limits += f" and below {high}" if math.isfinite(high) else ""
        raise SettingError(_wrong(name, value, f"{words} {limits}", one))


def _wrong(name: str, value: Any, wanted: str, one: Any, more: str = "") -> str:
    example = f" For example {one.name} = {_toml(one.default)}." if one.default is not None else " Or leave it out."
    return f"Key `{name}` of the configuration should be {wanted}. Found {value!r}.{more}{example}"


def _unknown_key(section: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    homes = [part.name for part in fields(DiffusionConfig) if key in _keys(part)]
    meant = f"It belongs into [{homes[0]}]. " if homes else f"Did you mean `{near[0]}`? " if near else ""
    return (
        f"Key `{section}.{key}` of the configuration is unknown; a misspelling or a wrong section is the likely cause. "
        f"{meant}[{section}] has {', '.join(known)}."
    )


def _unknown_section(name: str, content: Any) -> str:
    known = [part.name for part in fields(DiffusionConfig)]
    homes = [part.name for part in fields(DiffusionConfig) if name in _keys(part)]
    near = difflib.get_close_matches(name, known, n=1)
    if not isinstance(content, Mapping) and homes:
        meant = f"It is a key of [{homes[0]}]: put it below that line."
    else:
        meant = f"Did you mean [{near[0]}]?" if near else "A misspelling is the likely cause."
    return f"Section `{name}` of the configuration is unknown. {meant} There are {', '.join(known)}."


def _keys(part: Any) -> set[str]:
    return {one.name for one in fields(part.default_factory)}
