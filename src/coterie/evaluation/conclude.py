"""From a comparison to what is served: the choice, mixtures with simpler models, and the veto of the test data."""

from __future__ import annotations

from dataclasses import replace

from coterie.evaluation.comparison import Comparison
from coterie.evaluation.mix import LEAST_SEEDS, mix
from coterie.evaluation.recommend import Recommendation, advise, recommend, veto
from coterie.evaluation.verdict import UNDECIDED, WORTHWHILE, DecisionRules

#: what takes more seeds than a comparison
MIXING = "serving single tasks from simpler models"


def conclude(
    comparison: Comparison, budget: int | None = None, worthwhile: float = WORTHWHILE
) -> tuple[Comparison, Recommendation]:
    """Recommend; then let simpler models serve the tasks for which they are surely better, if that pays as a whole.

    Where a mixture of many models is worth its price, a grouping with no more models may be worth more: among those the
    best on validation data is taken, and mixed in its turn. Whatever comes out has to be better than one model for all
    tasks beyond the noise to be more than a guess, and may be vetoed by the test data.

    Args:
        comparison: really trained candidates with label losses.
        budget: largest number of models that may be served; None for no limit.
        worthwhile: the smallest gain over one model for all tasks that is worth more models, as a share.

    Returns:
        The comparison with the mixtures that were found, and the recommendation.

    Raises:
        SettingError: see :func:`recommend`.

    Cost: milliseconds; up to seconds with hundreds of tasks.
    """
    advice = recommend(comparison, budget, worthwhile)
    for _ in range(2):
        mixed = mix(comparison, advice.candidate, budget)
        if mixed is None:
            break
        name = f"mixed ({len(mixed.grouping.groups)})"
        if name in comparison.candidates:
            name = f"{name}, from {advice.candidate}"
        comparison = comparison.extended(name, mixed.grouping, mixed.losses)
        rivals = [rival for rival in comparison.candidates if comparison.n_models(rival) <= comparison.n_models(name)]
        best = DecisionRules(comparison).lowest(rivals)
        advice = advise(comparison, best, budget, worthwhile)
        if best == name:
            break
    advice = veto(comparison, advice, budget, worthwhile)
    missing = LEAST_SEEDS - len(comparison.seeds)
    if advice.verdict == UNDECIDED and missing > 0:
        text = f"{advice.text} Not tried for lack of seeds: {MIXING}, which takes at least {missing} more."
        further = max(missing, advice.further_seeds or 0)
        advice = replace(advice, text=text, further_seeds=further, not_tried=(MIXING,))
    return comparison, advice
