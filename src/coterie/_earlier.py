"""Names that rooms listed in version 0.1 and that now stand in their modules only.

They are found under their earlier place, with a DeprecationWarning, until version 0.3.
"""

from __future__ import annotations

#: room -> module of today -> names
_HOMES: dict[str, dict[str, str]] = {
    "coterie.adapters": {
        "coterie.adapters.bottleneck": "Bottleneck",
        "coterie.adapters.plain": "PlainModel",
        "coterie.adapters.counts": "Summary",
        "coterie.adapters.task_embedding": "TaskEmbeddings",
        "coterie.adapters.norm": "TaskScaledNorm",
        "coterie.adapters.troa": "flat_gradients",
    },
    "coterie.adapters.scenes": {
        "coterie.adapters.scenes.compose": "BACKGROUND PRESENT RELIEF",
        "coterie.adapters.scenes.scenes": "Scenes",
        "coterie.adapters.scenes.labels": "contours relief_normals smooth",
    },
    "coterie.affinity": {
        "coterie.affinity.grad_tae_model": "GradTAEModel",
        "coterie.affinity.gain_model": "random_subsets",
    },
    "coterie.balancing": {
        "coterie.balancing.methods": "AGGREGATIONS WEIGHTINGS as_balancing balancing_key",
    },
    "coterie.benchmark": {
        "coterie.benchmark.run": "prepare",
    },
    "coterie.diffusion": {
        "coterie.diffusion.sketch": "CountSketch",
        "coterie.diffusion.train": "Trained",
        "coterie.diffusion.denoising": "as_output",
        "coterie.diffusion.affinity": "average",
    },
    "coterie.evaluation": {
        "coterie.evaluation.halving": "Halving Rung Standing",
        "coterie.evaluation.intervals": "Interval t_interval",
        "coterie.evaluation.labels": "LabelLosses",
        "coterie.evaluation.recommend": "conclude advise helped_and_harmed veto",
        "coterie.evaluation.compare": "affordable all_in_one single_task",
    },
    "coterie.features": {
        "coterie.features.directions": "Directions StackedDirections",
        "coterie.features.storage": "FeatureMatrix",
        "coterie.features.plan": "FeaturePlan differentiable plan_features",
        "coterie.features.heads": "HeadFeatures head_displacement",
        "coterie.features.part": "PartFeatures TaskFeatures",
    },
    "coterie.grouping": {
        "coterie.grouping.peers.leiden": "LeidenFound leiden_partition",
        "coterie.grouping.peers.agglomerative": "agglomerative_labels",
        "coterie.grouping.intervals.costs": "centre_costs function_costs",
        "coterie.grouping.objective": "certified_bound density group_densities improve sum_of_densities",
        "coterie.grouping.intervals.programme": "every_k",
        "coterie.grouping.peers.random_groups": "random_partition",
        "coterie.grouping.rounding": "round_solution",
        "coterie.grouping.spectral": "spectral_labels",
    },
    "coterie.grouping.cover": {
        "coterie.grouping.cover.problem": "Costs Limit",
        "coterie.grouping.cover.select": "select_groups",
    },
    "coterie.grouping.intervals": {
        "coterie.grouping.intervals.programme": "Intervals best_intervals every_k",
        "coterie.grouping.intervals.costs": "affinity_costs centre_costs function_costs",
    },
    "coterie.grouping.peers": {
        "coterie.grouping.peers.leiden": "LeidenFound leiden_partition",
        "coterie.grouping.peers.agglomerative": "agglomerative_labels merge_tree",
        "coterie.grouping.peers.constant": "all_in_one_labels single_task_labels",
        "coterie.grouping.peers.random_groups": "random_partition",
    },
    "coterie.grouping.sdp": {
        "coterie.grouping.sdp.admm": "SdpSolution",
        "coterie.grouping.sdp.solve": "solve_sdp",
    },
    "coterie.grouping.search": {
        "coterie.grouping.search.local": "search",
        "coterie.grouping.search.groups": "search_groups",
    },
    "coterie.report": {
        "coterie.report.html": "render",
    },
    "coterie.serving": {
        "coterie.serving.saved": "save_served",
    },
    "coterie.store": {
        "coterie._units": "Payload",
        "coterie.errors": "StoreWarning",
        "coterie._files": "atomic_write",
        "coterie._json": "read_json write_json",
        "coterie.store.manifest": "read_manifest",
    },
    "coterie.training": {
        "coterie.training.trainer": "train_runs",
        "coterie.training.job": "Fit Job",
        "coterie.training.units": "FitUnit UnitCost fit_units",
        "coterie.training.loop": "fit_one",
        "coterie.training.population": "fit_population",
        "coterie.training.stackable": "is_stackable",
    },
    "coterie.training.footprint": {
        "coterie.training.evaluate": "measure_footprint",
    },
    "coterie.workload": {
        "coterie.workload.structure": "HeadSpec Structure find_structure",
        "coterie.workload.mlp": "Mlp build_from_spec mlp_spec",
    },
    "coterie.workload.causal": {
        "coterie.workload.causal.scorer": "CausalScorer",
        "coterie.workload.causal.margins": "sequence_margin",
    },
    "coterie.workload.text": {
        "coterie.workload.text.encoder": "TextEncoder",
        "coterie.workload.text.tokens": "encode_text",
    },
}
#: room -> earlier module -> the one of today
_MODULES = {"coterie.features": {"shard_files": "coterie.features.shards"}}


def earlier(room: str) -> dict[str, str]:
    """Earlier name -> ``"package.module:name"`` of today, for :func:`coterie._lazy.load_on_first_use`.

    Example:
        >>> earlier("coterie.serving")
        {'save_served': 'coterie.serving.saved:save_served'}
    """
    found = {name: f"{home}:{name}" for home, names in _HOMES.get(room, {}).items() for name in names.split()}
    return {**found, **_MODULES.get(room, {})}


def earlier_names() -> list[tuple[str, str]]:
    """All rooms with their earlier names."""
    return [(room, name) for room in {**_HOMES, **_MODULES} for name in earlier(room)]
