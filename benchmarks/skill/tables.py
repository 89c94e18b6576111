"""Print the tables of docs/benchmark.md from the results of `coterie benchmark`.

    python benchmarks/skill/tables.py [runs/benchmark-yeast/benchmark.json ...]

Results that are named are copied to benchmarks/results/benchmark-NAME.json; then the tables of all results there are
written between the markers of docs/benchmark.md, or printed when there is no such page.
"""

import argparse
from pathlib import Path

import numpy as np

from coterie.benchmark.markdown import fill_page, overview, result_table
from coterie.benchmark.page import read_result
from coterie.datasets import names
from coterie.store.files import write_json

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmark.md"


def summary(results: list[dict]) -> str:
    """What the text of the page quotes and no table has: means over beds, gains of groups, calibration."""
    lines = ["method: mean correlation, without mhc2, share of R1; mean gain of groups; inside 90 % intervals by bed"]
    seen = [result for result in results if result["bed"]["name"] != "mhc2"]
    limit = np.mean([result["references"]["one_run"]["mean"] for result in results])
    by_name = [
        {
            name: {**row, "gain": gains.get(name)}
            for row in result["entries"]
            if (name := row["name"]) and row.get("pooled")
        }
        for result in results
        for gains in [{one["name"]: one["gain"]["mean"] for one in result["groupings"][0]["candidates"]}]
    ]
    for name in [row["name"] for row in results[0]["entries"]]:
        rows = [rows_of.get(name) for rows_of in by_name]
        if any(row is None for row in rows):
            continue
        skill = [row["pooled"]["mean"] for row in rows]
        few = [value for value, result in zip(skill, results, strict=True) if result in seen]
        inside = " ".join(f"{row['calibration']['mean']:.0%}" for row in rows if "calibration" in row)
        gain = np.mean([row["gain"] for row in rows])
        mean = np.mean(skill)
        lines.append(f"{name}: {mean:.2f}, {np.mean(few):.2f}, {mean / limit:.0%}; {gain:+.1%}; {inside}")
    for name in ("all-in-one", "random"):
        gain = np.mean(
            [
                result["groupings"][0]["random"]["mean"]
                if name == "random"
                else next(c for c in result["groupings"][0]["candidates"] if c["name"] == name)["gain"]["mean"]
                for result in results
            ]
        )
        lines.append(f"{name}: gain {gain:+.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="*", help="files that a benchmark has written")
    options = parser.parse_args()
    for path in options.results:
        result = read_result(path)
        RESULTS.mkdir(exist_ok=True)
        write_json(RESULTS / f"benchmark-{result['bed']['name']}.json", result)
    results = [read_result(path) for path in RESULTS.glob("benchmark-*.json")]
    order = {name: place for place, name in enumerate(names())}
    results.sort(key=lambda result: (order.get(result["bed"]["name"], len(order)), result["bed"]["name"]))
    if results:
        print(f"beds: {', '.join(result['bed']['name'] for result in results)}\n{summary(results)}")
    if not results:
        print("No results yet. Make them with: make bench-skill")
    elif PAGE.exists():
        print(f"{PAGE}: {'written' if fill_page(PAGE, results) else 'unchanged'}")
    else:
        print("\n\n".join([overview(results), *map(result_table, results)]))


if __name__ == "__main__":
    main()
