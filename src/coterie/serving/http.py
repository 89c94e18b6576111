"""A small HTTP server for the models of a run: JSON in, JSON out.

Requests that arrive while the models are busy are answered together, by one pass of each model over all of their rows.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coterie._check import whole_number
from coterie._surface import known_arguments
from coterie.errors import SettingError, WorkloadError, require

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from coterie.serving.predictor import Predictor

#: rows that are answered in one pass at most
MOST_ROWS = 4096
#: largest request in bytes: 4,096 rows of a hundred numbers of twenty characters
MOST_BYTES = 8 * 2**20
#: a pass that takes less seconds may stop the server for as long: no client notices two milliseconds
QUICK = 0.002
#: upper ends of the classes of the histogram of times, in seconds
_TIMES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class BadInputError(Exception):
    """What is wrong with a request: where in it, and what."""

    def __init__(self, where: str, what: str, status: int = 422) -> None:
        super().__init__(f"{where}: {what}")
        self.where, self.what, self.status = where, what, status


@dataclass
class ServerCounts:
    """What ``/metrics`` tells."""

    requests: Counter[int] = field(default_factory=Counter[int])
    rows: int = 0
    passes: int = 0
    seconds: float = 0.0
    classes: list[int] = field(default_factory=lambda: [0] * (len(_TIMES) + 1))

    def add(self, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests[status] += 1
        self.seconds += seconds
        self.classes[bisect_left(_TIMES, seconds)] += 1

    def text(self) -> str:
        """The counts as Prometheus reads them."""
        total = sum(self.requests.values())
        lines = ["# TYPE coterie_requests_total counter"]
        lines += [f'coterie_requests_total{{status="{status}"}} {n}' for status, n in sorted(self.requests.items())]
        lines += ["# TYPE coterie_rows_total counter", f"coterie_rows_total {self.rows}"]
        lines += ["# TYPE coterie_passes_total counter", f"coterie_passes_total {self.passes}"]
        lines += ["# TYPE coterie_request_seconds histogram"]
        within = zip(_TIMES, accumulate(self.classes), strict=False)  # the last class has no end
        lines += [f'coterie_request_seconds_bucket{{le="{end:g}"}} {count}' for end, count in within]
        lines += [f'coterie_request_seconds_bucket{{le="+Inf"}} {total}']
        lines += [f"coterie_request_seconds_sum {self.seconds:.6f}", f"coterie_request_seconds_count {total}", ""]
        return "\n".join(lines)


@dataclass(frozen=True)
class RowReader:
    """Reads the rows of a request: ``[[...], ...]``, or ``[{"name": value}, ...]`` where inputs have names."""

    shape: tuple[int, ...]
    names: tuple[str, ...] | None
    parts: Mapping[str, tuple[int, ...]] | None = None

    def read(self, body: bytes) -> Any:
        """(rows, ...) array, or part -> array.

        Raises:
            BadInputError: naming the place.
        """
        try:
            given = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BadInputError("body", f"should be JSON. {error}", 400) from error
        if not isinstance(given, dict) or set(given) != {"rows"}:
            raise BadInputError("body", 'should be an object with the key "rows" and no other')
        rows: Any = given["rows"]
        if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
            raise BadInputError("rows", f"should be a list of 1 to {MOST_ROWS} rows")
        names = tuple(self.parts) if self.parts is not None else self.names
        if self.parts is not None or isinstance(rows[0], dict):
            rows = [self._by_name(row, place, names) for place, row in enumerate(rows)]
        if self.parts is None:
            return self._array(rows, self.shape, "")
        columns = zip(self.parts.items(), zip(*rows, strict=True), strict=True)
        return {name: self._array(list(column), shape, f".{name}") for (name, shape), column in columns}

    def _by_name(self, row: Any, place: int, names: tuple[str, ...] | None) -> list[Any]:
        """The values of an object, in the order of the names."""
        if names is None:
            raise BadInputError(f"rows[{place}]", "should be a list: the inputs of training had no names")
        missing = [name for name in names if not isinstance(row, dict) or name not in row]
        if missing:
            raise BadInputError(f"rows[{place}]", f"should be an object with the key {missing[0]!r}")
        if len(row) > len(names):
            more = next(name for name in row if name not in names)
            raise BadInputError(f"rows[{place}].{more}"[:100], "is no input of these models")
        return [row[name] for name in names]

    def _array(self, rows: list[Any], shape: tuple[int, ...], key: str) -> NDArray[np.float64]:
        found = np.empty(0)
        try:
            found = np.asarray(rows, dtype=np.float64)
            usable = found.shape == (len(rows), *shape) and bool(np.isfinite(found).all())
        except (TypeError, ValueError, OverflowError):
            usable = False
        if not usable or not _kinds(rows, 1 + len(shape)) <= {int, float}:
            for place, row in enumerate(rows):
                _check_row(row, shape, f"rows[{place}]{key}")
            raise BadInputError("rows", "should hold finite numbers")
        return found


def _kinds(rows: Any, depth: int) -> set[type]:
    """Types of the innermost values of nested lists: NumPy would take texts and truth values for numbers."""
    for _ in range(depth - 1):
        rows = chain.from_iterable(rows)
    return set(map(type, rows))


def _check_row(row: Any, shape: tuple[int, ...], where: str) -> None:
    """Name what is wrong with a row, if something is."""
    if not shape:
        if isinstance(row, bool) or not isinstance(row, int | float) or not abs(row) < float("inf"):
            raise BadInputError(where, f"should be a finite number. Found {str(row)[:40]!r}")
        return
    if not isinstance(row, list) or len(row) != shape[0]:
        found = f"{len(row)}" if isinstance(row, list) else type(row).__name__
        raise BadInputError(where, f"should be a list of {shape[0]}. Found {found}")
    for place, value in enumerate(row):
        _check_row(value, shape[1:], f"{where}[{place}]")


class Batcher:
    """Answers requests in the order of their arrival, as many together as are waiting."""

    def __init__(self, predictor: Predictor, counts: ServerCounts) -> None:
        self.predictor, self.counts = predictor, counts
        self.waiting: deque[tuple[Any, int, asyncio.Future[dict[str, Any]]]] = deque()
        self.arrived = asyncio.Event()
        self.worker: asyncio.Task[None] | None = None
        self.quick = False
        # one thread: a pass uses all cores that it may, and a second one would only take them away
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="coterie-serve")

    async def answer(self, rows: Any, count: int) -> dict[str, Any]:
        """The predictions for the rows of one request."""
        if self.worker is None:  # begun by the first request: a server that mounts this one does not tell it to begin
            self.worker = asyncio.create_task(self.work())
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.waiting.append((rows, count, future))
        self.arrived.set()
        return await future

    def close(self) -> None:
        """End; whoever still waits is not answered."""
        if self.worker is not None:
            self.worker.cancel()
        self.thread.shutdown(wait=False)

    async def work(self) -> None:
        """Answer for ever."""
        while True:
            await self.arrived.wait()
            await asyncio.sleep(0)  # who has sent meanwhile is read first, and answered in the same pass
            batch: list[tuple[Any, int, asyncio.Future[dict[str, Any]]]] = []
            while self.waiting and sum(count for _, count, _ in batch) + self.waiting[0][1] <= MOST_ROWS:
                batch.append(self.waiting.popleft())
            if not self.waiting:
                self.arrived.clear()
            try:
                answers = await self._answers([rows for rows, _, _ in batch])
            except Exception as error:
                if len(batch) == 1:
                    _settle(batch[0][2], error)
                else:  # each alone: the rows of one client must not cost another one his answer
                    for one in batch:
                        await self._alone(*one)
                continue
            self.counts.passes += 1
            start = 0
            for _, count, future in batch:
                self.counts.rows += count
                _settle(future, {task: values[start : start + count] for task, values in answers.items()})
                start += count

    async def _alone(self, rows: Any, count: int, future: asyncio.Future[dict[str, Any]]) -> None:
        """Answer one request."""
        try:
            answers: Any = await self._answers([rows])
            self.counts.passes += 1
            self.counts.rows += count
        except Exception as error:
            answers = error
        _settle(future, answers)

    async def _answers(self, parts: list[Any]) -> dict[str, Any]:
        """One pass: at once where passes are quick, as handing it to a thread takes longer; else beside the server."""
        begin = time.perf_counter()
        if self.quick:
            answers = self._pass(parts)
        else:
            answers = await asyncio.get_running_loop().run_in_executor(self.thread, self._pass, parts)
        self.quick = time.perf_counter() - begin < QUICK
        return answers

    def _pass(self, parts: list[Any]) -> dict[str, Any]:
        """Predictions for the rows of several requests, one after the other."""
        if isinstance(parts[0], dict):
            rows: Any = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        else:
            rows = np.concatenate(parts)
        return {task: values.tolist() for task, values in self.predictor.predict(rows).items()}


def _settle(future: asyncio.Future[dict[str, Any]], answer: dict[str, Any] | Exception) -> None:
    """Hand over an answer, unless the client has left."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


@known_arguments
def make_app(predictor: Predictor, *, most_bytes: int = MOST_BYTES) -> Starlette:
    """A web application (ASGI) that serves a predictor.

    ``POST /predict`` takes ``{"rows": [[...], ...]}`` (or objects by name of column or part) and answers
    ``{"predictions": {task: [...]}}``; ``GET /health``, ``/metrics`` (Prometheus) and ``/openapi.json`` tell the rest.
    Wrong input is answered with 4xx and ``{"error": {"where": ..., "what": ...}}``.

    Args:
        predictor: from :func:`coterie.load`.
        most_bytes: largest body that is read; 413 beyond.

    Raises:
        SettingError: for language models, whose texts are no rows of numbers.
        MissingDependencyError: when ``starlette`` is not installed (extra ``serve``).

    Example:
        >>> import coterie
        >>> x = np.random.default_rng(0).normal(size=(60, 5))
        >>> work = coterie.from_arrays(x, x[:, :3] > 0, hidden=(4,), recipe=coterie.Recipe(epochs=1))
        >>> result = coterie.run(work, groups=1, seeds=2, method="label-correlation")
        >>> [route.path for route in make_app(coterie.load(result)).routes]
        ['/predict', '/health', '/metrics', '/openapi.json']
    """
    require("starlette", extra="serve", purpose="serving over HTTP")
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    most_bytes, reader, counts = whole_number(most_bytes, "most_bytes", low=1), reader_of(predictor), ServerCounts()
    batcher = Batcher(predictor, counts)
    document = openapi(predictor, reader)

    async def predict(request: Request) -> Response:
        begin = time.perf_counter()
        try:
            rows = reader.read(await _body(request, most_bytes))
            count = len(next(iter(rows.values())) if isinstance(rows, dict) else rows)
            found = {"predictions": await batcher.answer(rows, count)}
            answer = Response(json.dumps(found, allow_nan=False), media_type="application/json")
        except BadInputError as error:
            answer = JSONResponse({"error": {"where": error.where, "what": error.what}}, status_code=error.status)
        except WorkloadError as error:
            answer = JSONResponse({"error": {"where": "rows", "what": str(error)}}, status_code=422)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            what = f"The models fail on these rows: {type(error).__name__}: {error}"
            answer = JSONResponse({"error": {"where": "rows", "what": what}}, status_code=500)
        counts.add(answer.status_code, time.perf_counter() - begin)
        return answer

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "tasks": list(predictor.tasks), "models": len(predictor.groups)})

    async def metrics(_: Request) -> Response:
        return PlainTextResponse(counts.text())

    async def describe(_: Request) -> Response:
        return JSONResponse(document)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        yield
        batcher.close()

    routes = [
        Route("/predict", predict, methods=["POST"]), Route("/health", health), Route("/metrics", metrics),
        Route("/openapi.json", describe),
    ]  # fmt: skip
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request, most: int) -> bytes:
    """The body, of which no more is read than may be."""
    too_large = BadInputError("body", f"should have at most {most} bytes", 413)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def reader_of(predictor: Predictor) -> RowReader:
    """What reads the rows for a predictor.

    Raises:
        SettingError: for language models.
    """
    from coterie.workload.text.encoder import TextEncoder

    if any(isinstance(model, TextEncoder) for model in predictor.models):
        raise SettingError(
            "Language models are not served over HTTP: a row is a text, and batches of texts are padded. "
            "Use `coterie.load(run).predict(texts)` in a server of your own."
        )
    if "parts" in predictor.form:
        parts = {name: tuple(form["shape"]) for name, form in predictor.form["parts"].items()}
        return RowReader((), None, parts)
    return RowReader(tuple(predictor.form["shape"]), predictor.input_names)


def openapi(predictor: Predictor, reader: RowReader) -> dict[str, Any]:
    """The OpenAPI document of the server."""
    if reader.parts is not None:
        row: Any = _object({name: _nested(shape) for name, shape in reader.parts.items()})
    else:
        row = _nested(reader.shape)
        if reader.names is not None:
            row = {"anyOf": [row, _object({name: {"type": "number"} for name in reader.names})]}
    rows = {"type": "array", "minItems": 1, "maxItems": MOST_ROWS, "items": row}
    number: dict[str, Any] = {"type": "number"}
    answers = {
        task.name: {"type": "array", "items": {"type": "array", "items": number} if task.width > 1 else number}
        for task in predictor.workload.tasks
    }
    error = _object({"error": _object({"where": {"type": "string"}, "what": {"type": "string"}})})

    def answer(text: str, schema: Any) -> dict[str, Any]:
        return {"description": text, "content": {"application/json": {"schema": schema}}}

    body = _object({"rows": rows})
    operation = {
        "summary": "Predictions of every task for some rows",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": answer("predictions, one a row", _object({"predictions": _object(answers)})),
            "400": answer("no JSON", error), "413": answer("too large", error),
            "422": answer("wrong rows", error), "500": answer("the models fail", error),
        },
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": predictor.workload.name or "coterie", "version": "1"},
        "paths": {"/predict": {"post": operation}},
    }


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _nested(shape: tuple[int, ...]) -> dict[str, Any]:
    """Schema of nested lists of numbers."""
    if not shape:
        return {"type": "number"}
    return {"type": "array", "minItems": shape[0], "maxItems": shape[0], "items": _nested(shape[1:])}
