"""How alike the tasks' loss landscapes are, example by example, before any shared training.

From a common start ``theta_0`` one gradient step on one example leads to that example's own optimum for a task. Tasks
whose optima for the same examples are close can be trained together. The step size is a common factor, so the distance
of two tasks is ``A_ab = mean_i |g_a,i - g_b,i|_1`` with ``g_t,i`` the gradient of task t's loss at example i on the
shared parameters. The published method then embeds the graph of tasks by graph attention and clusters the embedding by
a mixture of Gaussians.

The paper was known through summaries only. Sample-wise optima, the mean L1 distance, the graph attention network and
the mixture are the paper's; everything that these leave open is our reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie._check import choice, flag, whole_number
from coterie._context import DEFAULT_CONTEXT, Context
from coterie._surface import known_arguments
from coterie._units import Payload
from coterie.affinity.affinity import Affinity
from coterie.affinity.costs import Prepared, prepare, timed
from coterie.affinity.estimator import Estimate, Estimator
from coterie.affinity.gain_model import PairwiseGainModel
from coterie.affinity.scores.graph_embedding import embed, embedding_flops
from coterie.affinity.scores.landscape_distances import landscape_distances, similarity
from coterie.affinity.scores.landscape_gradients import BLOCK, SampleGradients, choose_rows
from coterie.affinity.scores.landscape_heads import EPOCHS, fit_heads
from coterie.affinity.scores.mixture import graph_labels, mixture_labels
from coterie.features.plan import differentiable
from coterie.workload import Workload

EMBEDDINGS = ("gat", "spectral")


@known_arguments
@dataclass(frozen=True)
class Landscape(Estimator):
    """Settings of the sample-wise landscape distance; the score is symmetric.

    Args:
        samples: training rows that gradients are taken on.
        warm_up: fit the heads to the untrained trunk first; False keeps random heads, as found.
        normalise: measure a task's gradients in units of their mean L1 norm, so that the scale of its loss does not
            matter; False for the plain distance.
        per_layer: let every tensor of the trunk count alike. The plain L1 distance is dominated by large layers.
        embedding: ``"gat"``: graph attention and a mixture of Gaussians, the affinity is ``sigmoid(z_a . z_b)`` of the
            embedded tasks; ``"spectral"``: spectral clustering, the affinity is minus the distance.
        dimensions: of the embedding.
        links: most similar tasks that a task is linked to in the graph. With more than half of the tasks, attention
            averages over nearly all of them, and the embedded tasks become alike.
        steps: training steps of the embedding.
        seeds: starts of the embedding; the one with the least loss is kept.
        min_common: labels that every two tasks must share for a comparison row by row. Otherwise rows are compared at
            random and the spread within each task is taken off (an energy distance), for all pairs of tasks alike.
        coordinates: compare that many of the trunk's numbers, drawn at random; None compares all. On the workload
            "chemicals" 8,192 of 34,912 gave distances that correlate 0.99 with those of all on the same rows, against
            0.74 between two draws of rows: with a large trunk, more samples and fewer coordinates are the better use
            of time.

    Raises:
        SettingError: when a value is unknown or out of range.

    Source: arXiv 2412.04413 (TPAMI 2025), reconstructed; see the module.

    Example:
        >>> Landscape().name, SPECTRAL.name
        ('landscape', 'landscape-spectral')
    """

    samples: int = 256
    warm_up: bool = True
    normalise: bool = True
    per_layer: bool = False
    embedding: str = "gat"
    dimensions: int = 8
    links: int = 5
    steps: int = 300
    seeds: int = 10
    min_common: int = 16
    coordinates: int | None = None

    def __post_init__(self) -> None:
        choice(self.embedding, "embedding", EMBEDDINGS)
        for name in ("warm_up", "normalise", "per_layer"):
            flag(getattr(self, name), name)
        for name in ("samples", "dimensions", "links", "steps", "seeds", "min_common"):
            whole_number(getattr(self, name), name, low=1)
        if self.coordinates is not None:
            whole_number(self.coordinates, "coordinates", low=1)

    @property
    def name(self) -> str:
        """Name of the method with these settings."""
        return "landscape" if self.embedding == "gat" else "landscape-spectral"

    def estimate(self, workload: Workload, context: Context = DEFAULT_CONTEXT, subset_size: int = 2) -> Estimate:
        """Compare the tasks' gradients at the model of `seed`, and embed them.

        Returns:
            A model of the mean affinity of partners (no gains: the scale means nothing), and the method's own
            clustering.

        Raises:
            ResourceError: when the gradients of one block of examples do not fit the memory.
            WorkloadError: when a task has no label in the training part.

        Cost: a forward and a backward pass for every task and sample, the comparisons, and a forward pass over the
            training rows for the heads.
        """
        del subset_size
        prepared = prepare(workload, context)
        measured = self._distances(prepared)
        distances, density = (np.asarray(measured.arrays[name]) for name in ("distances", "density"))
        weights = similarity(distances)
        facts = {"median distance": float(np.median(distances[np.triu_indices(len(distances), 1)]))}
        if self.embedding == "gat":
            done = self._embed(prepared, weights, density)
            values, losses = np.asarray(done.arrays["weights"]), np.asarray(done.arrays["losses"])
            facts |= {"loss of the embedding": float(losses.min()), "worst start": float(losses.max())}
            cluster = partial(mixture_labels, np.asarray(done.arrays["points"]), seed=context.seed)
        else:
            values, cluster = 0.0 - distances, partial(graph_labels, weights, seed=context.seed)
        affinity = Affinity(values, workload.task_names, kind="raw", method=self.name)
        return Estimate(
            PairwiseGainModel(affinity),
            prepared.costs,
            notes=(str(measured.meta["note"]),),
            facts=facts,
            cluster=cluster,
        )

    def _key(self, prepared: Prepared) -> dict[str, Any]:
        """What the distances depend on."""
        fields = ("samples", "warm_up", "normalise", "per_layer", "min_common", "coordinates")
        return {"seed": prepared.context.seed, **{name: getattr(self, name) for name in fields}}

    def _distances(self, prepared: Prepared) -> Payload:
        """Distances and densities, with what they cost; both embeddings share them."""
        workload, unit = prepared.workload, prepared.costs.unit

        def compute() -> Payload:
            core = choose_rows(workload, self.samples, self.min_common, prepared.context.seed)
            model = workload.build_model(prepared.context.seed).to(workload.labels.device)
            with differentiable(model):
                heads = fit_heads(workload, model, prepared.structure, prepared.context.seed) if self.warm_up else 0.0
                trunk, chosen = prepared.structure.trunk, self._chosen(model, prepared)
                source = SampleGradients(
                    workload, model, trunk, core, chosen, prepared.context.memory, prepared.context.progress
                )
                distances, density = landscape_distances(
                    source, paired=core.paired, block=BLOCK, normalise=self.normalise, per_layer=self.per_layer
                )
            how = "row by row" if core.paired else "over random pairs of rows, within-task spread taken off"
            note = f"distances of gradients at {len(core.rows)} training rows a task, {how}"
            block = 1 if core.paired else BLOCK
            points = workload.n_tasks * block
            width = sum(source.narrow_layers if core.paired else source.layers)
            compared = len(core.rows) // block * points * (points - 1) / 2 * width
            meta = {"note": note, "passes": source.passes, "compared": compared, "heads": heads}
            return Payload({"distances": distances, "density": density}, meta)

        done = timed(
            prepared.context.store,
            prepared.costs,
            "gradients of examples",
            "landscape-distances",
            self._key(prepared),
            compute,
        )
        if self.warm_up:
            rows = len(workload.rows_of(prepared.everything, "train"))
            deep = not all(head.linear for head in prepared.structure.heads)
            passes = rows * (unit.forward + (EPOCHS * unit.training if deep else 0.0))
            prepared.costs.add("heads", passes + float(done.meta["heads"]))
        # each comparison is a difference, its absolute value, and a sum
        flops = float(done.meta["passes"]) * unit.training + 3 * float(done.meta["compared"])
        prepared.costs.add("gradients of examples", flops)
        return done

    def _chosen(self, model: torch.nn.Module, prepared: Prepared) -> Tensor | None:
        """Numbers of the trunk's entries that are compared."""
        named = dict(model.named_parameters())
        size = sum(named[name].numel() for name in prepared.structure.trunk)
        if self.coordinates is None or self.coordinates >= size:
            return None
        drawn = np.random.default_rng(prepared.context.seed).choice(size, self.coordinates, replace=False)
        return torch.from_numpy(np.sort(drawn)).to(prepared.workload.labels.device)

    def _embed(self, prepared: Prepared, weights: NDArray[np.float64], density: NDArray[np.float64]) -> Payload:
        settings = {name: getattr(self, name) for name in ("dimensions", "links", "steps", "seeds")}
        key = {**self._key(prepared), **settings}

        def compute() -> Payload:
            found = embed(weights, density, seed=prepared.context.seed, **settings)
            return Payload({"points": found.points, "weights": found.weights, "losses": found.losses})

        parts = ("dimensions", "steps", "seeds")
        prepared.costs.add("embedding", embedding_flops(len(weights), **{name: settings[name] for name in parts}))
        return timed(prepared.context.store, prepared.costs, "embedding", "landscape-embedding", key, compute)


#: the same distances, clustered without the embedding
SPECTRAL = Landscape(embedding="spectral")
