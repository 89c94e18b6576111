"""What do base models and real runs add to each other, and do the 90 % intervals hold what they promise?

    python benchmarks/skill/splits.py [yeast digits water] [--seeds 0 100 200] [--splits 1+0 2+7 4+15]

A split ``2+7`` is the fused estimate from 2 base models and 7 real runs. Seeds lie far apart, since base model b has
the seed of the estimate plus b. Printed are means over seeds: within-task correlation, pooled, of the view that
believes the base models and of both views; the latter by task; the weight of the first; the share of true values inside
the 90 % interval; a ridge regression on the same runs; the cost in ordinary trainings. Rows with ``useless`` draw each
estimate at random from the others of its task, so that only the runs can tell.
"""

import argparse
from dataclasses import replace

import numpy as np
import torch
from banks import opened
from sklearn.linear_model import RidgeCV

from coterie import Context
from coterie.affinity import get_estimator
from coterie.affinity.costs import Costs, prepare
from coterie.affinity.gain_model import random_subsets
from coterie.affinity.grad_tae import SECANTS
from coterie.affinity.surrogates.prior import make_prior, partial_correlation
from coterie.affinity.surrogates.real_runs import different_subsets, real_runs
from coterie.affinity.surrogates.views import fit_views
from coterie.benchmark.bank import make_bank
from coterie.evaluation.skill import inside, mean_by_task, within_task

SPLITS = ("1+0", "4+0", "1+2", "1+4", "1+8", "2+7", "4+2", "2+15", "4+15")
REFERENCE = 200


def ridge(runs, values, asked):
    """Predictions of a ridge regression a task, its penalty by leave-one-out; constant where a task was run once."""
    result = np.where(asked, 0.0, np.nan)
    for task in range(runs.shape[1]):
        own, wanted = runs[:, task], asked[:, task]
        if own.sum() > 1 and wanted.any():
            model = RidgeCV(alphas=np.logspace(-1, 3, 12)).fit(runs[own].astype(float), values[own, task])
            result[wanted, task] = model.predict(asked[wanted].astype(float))
    return result


def drawn(values, masks, pool, rng):
    """Each estimate drawn from those of its task."""
    result = values.copy()
    for task, column in enumerate(masks.T):
        known = pool[np.isfinite(pool[:, task]), task]
        result[column, task] = rng.choice(known, column.sum())
    return result


def cells(name, seed, splits):
    """Numbers of each split, with the estimates as they are and useless."""
    with opened(name) as (work, plan, store):
        bank = make_bank(work, plan, context=Context(store=store))
        truth, asked = bank.test.truth, bank.test.subsets
        noise = np.broadcast_to(np.sqrt(np.nanmean(bank.test.values.var(0, ddof=1), 0) / plan.replicates), truth.shape)
        size, context = round(float(asked.sum(1).mean())), Context(seed=seed, store=store)
        sizes = sorted({max(2, size - 1), size, min(size + 1, work.n_tasks)})
        reference = np.unique(random_subsets(work.n_tasks, REFERENCE, sizes, seed=seed), axis=0)
        prepared = prepare(work, context)
        runs = different_subsets(work.n_tasks, max(runs for _, runs in splits), size, seed)
        done = real_runs(replace(prepared, costs=Costs(prepared.costs.unit)), runs)
        feature = get_estimator("label-correlation").estimate(work, context=context).model.affinity.values
        label, rng, everyone = partial_correlation(work), np.random.default_rng(seed), np.ones((1, len(truth)))
        for bases, count in splits:
            found = replace(SECANTS, bases=bases).estimate(work, context=context, subset_size=size)
            prior = make_prior(found.model.predict_values, label, reference)
            about, wanted, seen = prior(reference), prior(asked), prior(runs)[:count]
            cost = (found.costs.flops + done.flops[:count].sum()) / bank.test.run_flops
            for kind in ("", "useless "):
                if kind:
                    wanted, seen = drawn(wanted, asked, about, rng), drawn(seen, runs[:count], about, rng)
                    about = drawn(about, reference, about, rng)
                both = fit_views(
                    runs[:count], done.values[:count], seen, reference, about, features=[np.nan_to_num(feature)]
                )
                mean, error = both.predict(asked, wanted)
                believing = [n for n, view in enumerate(both.views) if view.settings.slope > 0]
                first = both.views[believing[0]].predict(asked, wanted, errors=False)[0] if believing else mean
                other = ridge(runs[:count], done.values[:count], asked) if count else np.where(asked, 0.0, np.nan)
                yield (
                    f"{kind}{bases}+{count}",
                    [
                        float(within_task(first, truth, everyone)[0]),
                        float(within_task(mean, truth, everyone)[0]),
                        float(mean_by_task(mean, truth, everyone)[0]),
                        float(both.weights[believing].sum()),
                        float(inside(mean, error, truth, noise)[asked].mean()),
                        float(within_task(other, truth, everyone)[0]) if count else 0.0,
                        cost,
                    ],
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("beds", nargs="*", default=["yeast", "digits", "water"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 100, 200])
    parser.add_argument("--splits", nargs="*", default=list(SPLITS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    splits = [tuple(map(int, split.split("+"))) for split in asked.splits]
    print("| bed | split | one view | both | by task | weight | inside | ridge | cost |\n|" + "---|" * 9)
    for name in asked.beds:
        rows = {}
        for seed in asked.seeds:
            for split, numbers in cells(name, seed, splits):
                rows.setdefault(split, []).append(numbers)
        for split, found in rows.items():
            r, both, task, weight, covered, other, cost = np.mean(found, 0)
            print(
                f"| {name} | {split} | {r:.2f} | {both:.2f} | {task:.2f} | {weight:.2f} | {covered:.0%} | "
                f"{other:.2f} | {cost:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
