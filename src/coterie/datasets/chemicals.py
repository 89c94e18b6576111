"""chemicals: 45 measured properties of 15,936 molecules from their written formula; 84 % of the labels are missing."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coterie.datasets._packages import package_file
from coterie.workload.build import from_arrays
from coterie.workload.recipe import Recipe
from coterie.workload.split import make_split
from coterie.workload.task import Task
from coterie.workload.workload import Workload

N_INPUTS = 512
MIN_LABELS = 400
RECIPE = Recipe(learning_rate=3e-3, weight_decay=1e-2, epochs=20, batch_size=128, check_every=20, patience=4)

IDENTIFIERS = ("pubchem large", "pubchem small", "example user db")

#: file -> task name -> column. The same property from two sources is two tasks, on purpose: they should find each
#: other.
SOURCES: dict[str, dict[str, str]] = {
    "Misc/Physical Constants of Organic Compounds.csv": {
        "melting point (CRC)": "Tm",
        "boiling point (CRC)": "Tb",
        "density (CRC)": "rho",
        "refractive index (CRC)": "RI",
    },
    "Environment/Syrres logP data.csv.gz": {"octanol-water logP": "logP"},
    "Critical Properties/Yaws Collection.tsv": {
        "critical temperature (Yaws)": "Tc",
        "critical pressure (Yaws)": "Pc",
        "critical volume (Yaws)": "Vc",
        "acentric factor (Yaws)": "omega",
    },
    "Phase Change/Yaws Boiling Points.tsv": {"boiling point (Yaws)": "Tb"},
    "Reactions/Yaws Hf S0 (g).tsv": {"formation heat, gas (Yaws)": "Hfg", "entropy, gas (Yaws)": "S0g"},
    "Phase Change/OpenNotebook Melting Points.tsv": {"melting point (Open Notebook)": "Tm"},
    "Misc/webbook_constants.tsv": {
        "critical temperature (WebBook)": "Tc",
        "critical pressure (WebBook)": "Pc",
        "formation heat, solid (WebBook)": "Hfs",
        "formation heat, liquid (WebBook)": "Hfl",
        "formation heat, gas (WebBook)": "Hfg",
        "entropy, liquid (WebBook)": "S0l",
        "entropy, gas (WebBook)": "S0g",
        "sublimation heat (WebBook)": "Hsub",
        "vaporization heat (WebBook)": "Hvap",
    },
    "Phase Change/Ghazerati Appendix Vaporization Enthalpy.tsv": {"vaporization heat 298 K (Gharagheizi)": "Hvap298"},
    "Phase Change/Ghazerati Appendix Sublimation Enthalpy.tsv": {"sublimation heat (Gharagheizi)": "Hsub"},
    "Heat Capacity/CRC Standard Thermodynamic Properties of Chemical Substances.tsv": {
        "formation heat, solid (CRC)": "Hfs",
        "formation heat, liquid (CRC)": "Hfl",
        "formation heat, gas (CRC)": "Hfg",
        "entropy, solid (CRC)": "S0s",
        "entropy, gas (CRC)": "S0g",
        "heat capacity, solid (CRC)": "Cps",
        "heat capacity, liquid (CRC)": "Cpl",
        "heat capacity, gas (CRC)": "Cpg",
    },
    "Heat Capacity/TRC Thermodynamics of Organic Compounds in the Gas State.tsv": {"formation heat, gas (TRC)": "Hfg"},
    "Vapor Pressure/Landolt_antoine_V20.tsv": {"Antoine A": "A", "Antoine B": "B", "Antoine C": "C"},
    "Misc/alshehri_hansen_solubility_parameters.tsv": {
        "Hansen dispersion (Alshehri)": "HANSEN_DELTA_D",
        "Hansen polarity (Alshehri)": "HANSEN_DELTA_P",
        "Hansen hydrogen bonds (Alshehri)": "HANSEN_DELTA_H",
    },
    "Misc/ruben_manuel_hansen_solubility_parameters.tsv": {
        "Hansen dispersion (Manuel-Ruben)": "HANSEN_DELTA_D",
        "Hansen polarity (Manuel-Ruben)": "HANSEN_DELTA_P",
        "Hansen hydrogen bonds (Manuel-Ruben)": "HANSEN_DELTA_H",
    },
    "Safety/DIPPR T_flash Serat.csv": {"flash point (DIPPR)": "T_flash"},
    "Misc/chemsep_radius_of_gyrations.tsv": {"radius of gyration (ChemSep)": "RG"},
    "Electrolytes/Permittivity (Dielectric Constant) of Liquids.tsv": {"permittivity (CRC)": "Permittivity"},
}


def load() -> Workload:
    """45 regression tasks on hashed pieces (1 to 3 letters) of each molecule's SMILES text; 9,562 / 3,187 / 3,187 rows.

    Some tables hold values that are off by orders of magnitude. Each property is therefore clipped to the range from
    the 1st to the 99th percentile of its training labels, in all three parts, before it is standardised.

    Cost: about a second, most of it for reading 72,000 formulas.

    Source: the handbooks and collections that the package chemicals (C. Bell and contributors) compiles; the task
    names say which one.

    Raises:
        MissingDependencyError: when chemicals is not installed.
    """
    values = {task: column for file, tasks in SOURCES.items() for task, column in _properties(file, tasks).items()}
    smiles = _smiles({cas for column in values.values() for cas in column})
    values = {task: {cas: v for cas, v in column.items() if cas in smiles} for task, column in values.items()}
    values = {task: column for task, column in values.items() if len(column) >= MIN_LABELS}
    counts = Counter(cas for column in values.values() for cas in column)
    molecules = sorted(cas for cas, count in counts.items() if count >= 2)
    labels = np.array([[values[task].get(cas, np.nan) for task in values] for cas in molecules])
    split = make_split((0.6, 0.2, 0.2), len(molecules), seed=0)
    low, high = np.nanquantile(labels[split.train.numpy()], [0.01, 0.99], axis=0)
    return from_arrays(
        _pieces([smiles[cas] for cas in molecules]),
        np.clip(labels, low, high),
        tasks=[Task(task, "regression") for task in values],
        recipe=RECIPE,
        split=split,
        hidden=(64, 32),
        name="chemicals",
    )


def _path(file: str) -> Path:
    return package_file("chemicals", file, distribution="chemicals", purpose="The workload 'chemicals'")


def _number(cas: str) -> int | None:
    """A CAS registry number, written with or without hyphens."""
    digits = cas.replace("-", "")
    return int(digits) if digits.isdecimal() else None


def _properties(file: str, tasks: dict[str, str]) -> dict[str, dict[int, float]]:
    """Task -> CAS number -> value, for the tasks of one file; a molecule's first row counts."""
    found: dict[str, dict[int, float]] = {task: {} for task in tasks}
    seen: set[int] = set()
    for row in _rows(_path(file)):
        cas = _number(row.get("CAS") or row.get("CASRN") or "")
        if cas is None or cas in seen:
            continue
        seen.add(cas)
        for task, column in tasks.items():
            try:
                value = float(row[column] or "nan")
            except ValueError:
                continue
            if np.isfinite(value):
                found[task][cas] = value
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf8") if path.suffix == ".gz" else path.open(encoding="utf8") as file:
        header = file.readline()
        delimiter = "\t" if "\t" in header else ","
        columns = header.rstrip("\r\n").split(delimiter)
        for cells in csv.reader(file, delimiter=delimiter):
            if len(cells) <= len(columns):
                yield dict(zip(columns, cells + [""] * (len(columns) - len(cells)), strict=True))


def _smiles(wanted: set[int]) -> dict[int, str]:
    """CAS number -> SMILES text, for the molecules that are wanted and known."""
    known: dict[int, str] = {}
    for name in IDENTIFIERS:
        with _path(f"Identifiers/chemical identifiers {name}.tsv").open(encoding="utf8") as file:
            for line in file:
                cells = line.split("\t", 5)
                cas = _number(cells[1]) if len(cells) > 4 else None
                if cas in wanted and cas not in known and cells[4].strip():
                    known[cas] = cells[4].strip()
    return known


def _pieces(texts: list[str]) -> NDArray[np.float32]:
    """log(1 + count) of the pieces of 1 to 3 letters of each text, hashed into 512 columns."""
    columns: dict[str, int] = {}
    counts = np.zeros((len(texts), N_INPUTS), dtype=np.float32)
    for row, text in zip(counts, texts, strict=True):
        for size in (1, 2, 3):
            for start in range(len(text) - size + 1):
                piece = text[start : start + size]
                if piece not in columns:
                    columns[piece] = zlib.crc32(piece.encode()) % N_INPUTS
                row[columns[piece]] += 1
    return np.log1p(counts)
