"""Print the tables of docs/benchmark.md from the results of `coterie benchmark`.

    python benchmarks/skill/tables.py [runs/benchmark-yeast/benchmark.json ...]

Results that are named are copied to benchmarks/results/benchmark-NAME.json; then the tables of all results there are
written between the markers of docs/benchmark.md, or printed when there is no such page.
"""

import sys
from pathlib import Path

from coterie.benchmark.markdown import bed_table, fill_page, overview
from coterie.benchmark.page import read_result
from coterie.datasets import names
from coterie.store import write_json

RESULTS = Path(__file__).parent.parent / "results"
PAGE = Path(__file__).parent.parent.parent / "docs" / "benchmark.md"


def main() -> None:
    for path in sys.argv[1:]:
        result = read_result(path)
        RESULTS.mkdir(exist_ok=True)
        write_json(RESULTS / f"benchmark-{result['bed']['name']}.json", result)
    results = [read_result(path) for path in RESULTS.glob("benchmark-*.json")]
    order = {name: place for place, name in enumerate(names())}
    results.sort(key=lambda result: (order.get(result["bed"]["name"], len(order)), result["bed"]["name"]))
    if not results:
        print("No results yet. Make them with: make bench-skill")
    elif PAGE.exists():
        print(f"{PAGE}: {'written' if fill_page(PAGE, results) else 'unchanged'}")
    else:
        print("\n\n".join([overview(results), *map(bed_table, results)]))


if __name__ == "__main__":
    main()
