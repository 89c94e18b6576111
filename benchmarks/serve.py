"""Requests a second of ``coterie serve``, beside an endpoint of the same server that does nothing.

Small models of seven tasks on 64 inputs. Thirty-two clients in a process of their own keep their connections and send
one row a request, in turn to both endpoints, several rounds each. Times are of the clock, on cores that server and
clients share.

Run: ``python benchmarks/serve.py``. Writes ``benchmarks/results/serve.json``.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import json
import multiprocessing
import statistics
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

OUT = Path(__file__).resolve().parent / "results" / "serve.json"


def serve(ports: Any) -> None:
    """The server, with one endpoint more that does nothing."""
    import torch
    import uvicorn
    from sklearn.datasets import load_digits
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    import coterie
    from coterie.serving.http import make_app

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    x, digit = load_digits(return_X_y=True)
    labels = np.stack([digit == k for k in range(7)], 1).astype(float)
    work = coterie.from_arrays(x, labels, recipe=coterie.Recipe(epochs=5))
    predictor = coterie.load(coterie.run(work, groups=3, seeds=2, method="label-correlation"))

    async def nothing(request: Request) -> Response:
        await request.body()
        return Response(b'{"predictions": {}}', media_type="application/json")

    app = make_app(predictor)
    app.router.routes.append(Route("/nothing", nothing, methods=["POST"]))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    ports.put((server.servers[0].sockets[0].getsockname()[1], len(predictor.groups)))
    thread.join()


async def client(port: int, path: str, body: bytes, until: float, times: list[float]) -> None:
    """One row after the other on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    while (begin := time.perf_counter()) < until:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        times.append(time.perf_counter() - begin)
    writer.close()


def round_of(port: int, path: str, body: bytes, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Requests a second and the time of each."""
    times: list[float] = []

    async def all_clients() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(client(port, path, body, until, times) for _ in range(clients)))

    asyncio.run(all_clients())
    return len(times) / seconds, times


def main() -> None:
    """Run, print, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ports: Any = context.Queue()
    server = context.Process(target=serve, args=(ports,), daemon=True)
    server.start()
    port, models = ports.get()
    body = json.dumps({"rows": [np.random.default_rng(0).integers(0, 16, 64).tolist()]}).encode()
    rates: dict[str, list[float]] = {"/predict": [], "/nothing": []}
    times: dict[str, list[float]] = {"/predict": [], "/nothing": []}
    for path in rates:
        round_of(port, path, body, options.clients, 0.5)
    for _ in range(options.rounds):
        for path, found in rates.items():
            rate, each = round_of(port, path, body, options.clients, options.seconds)
            found.append(rate)
            times[path] += each
    server.terminate()
    shares = [a / b for a, b in zip(rates["/predict"], rates["/nothing"], strict=True)]
    result = {
        "clients": options.clients,
        "models": models,
        "requests_a_second": {path: statistics.median(found) for path, found in rates.items()},
        "share": statistics.median(shares),
        "p50_ms": {path: 1e3 * float(np.quantile(found, 0.5)) for path, found in times.items()},
        "p99_ms": {path: 1e3 * float(np.quantile(found, 0.99)) for path, found in times.items()},
    }
    print(json.dumps(result, indent=1))
    OUT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
