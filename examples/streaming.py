"""A data set of Hugging Face that is streamed from files, here written by the script itself; nothing is fetched."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import coterie
import datasets
from coterie.workload import from_dataset

TASKS = ["warm", "wet", "windy"]


def write(folder: Path) -> list[str]:
    """Three shards of measurements, a line each, as JSON; labels that are not known are null."""
    rng = np.random.default_rng(0)
    names: list[str] = []
    for shard in range(3):
        lines: list[str] = []
        for _ in range(120):
            sensors = rng.normal(size=6)
            labels = {
                "warm": float(sensors[0] + sensors[1] > 0),
                "wet": float(sensors[1] - sensors[2] > 0),
                "windy": float(sensors[3] + 0.5 * sensors[4]),
            }
            known = {name: label if rng.random() < 0.8 else None for name, label in labels.items()}
            lines.append(json.dumps({"station": f"s{shard}", "sensors": sensors.round(4).tolist(), **known}))
        file = folder / f"shard-{shard}.jsonl"
        file.write_text("\n".join(lines), encoding="utf-8")
        names.append(str(file))
    return names


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stream = datasets.load_dataset(
            "json", data_files=write(Path(folder)), split="train", streaming=True, cache_dir=folder
        )
        stream = stream.map(lambda row: {"sensors": [value / 2 for value in row["sensors"]]})
        workload = from_dataset(
            stream.shuffle(seed=0, buffer_size=64),
            inputs="sensors",
            labels=TASKS,
            recipe=coterie.Recipe(epochs=10, batch_size=32, learning_rate=1e-2),
            name="weather",
        )
        print(workload)
        result = coterie.run(workload, groups=2, seeds=2, method="cosine", out="runs/weather", overwrite=True)
        print(result)
