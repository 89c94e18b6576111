"""The HTTP server, over real connections."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import coterie
from coterie.serving.http import MOST_ROWS, make_app

uvicorn = pytest.importorskip("uvicorn")
NAMES = ["height", "weight", "age"]


class Served:
    """A server in a thread, and what it serves."""

    def __init__(self, predictor: coterie.Predictor, **options: Any) -> None:
        self.predictor = predictor
        self.server = uvicorn.Server(
            uvicorn.Config(make_app(predictor, **options), port=0, log_level="error", lifespan="on")
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, json.loads(text) if "json" in answer.getheader("content-type", "") else text

    def predict(self, rows: Any) -> tuple[int, Any]:
        return self.ask("/predict", json.dumps({"rows": rows}).encode())

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


def predictor_of(x: Any, y: np.ndarray) -> coterie.Predictor:
    kinds = [("a", "binary"), ("b", "binary"), ("c", "regression")]
    tasks = [coterie.Task(name, kind) for name, kind in kinds]
    if y[:, 1].max() > 1:
        tasks[1] = coterie.Task("b", "multiclass", classes=3)
    work = coterie.from_arrays(x, y, tasks=tasks, hidden=(8,), recipe=coterie.Recipe(epochs=2))
    return coterie.load(coterie.run(work, groups=2, seeds=2, method="label-correlation"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)) * [1, 10, 100] + 50
    y = np.stack([x[:, 0] > 50, np.digitize(x[:, 1], [45, 55]), x[:, 2] ** 2], 1).astype(float)
    found = Served(predictor_of(pandas.DataFrame(x, columns=NAMES), y), most_bytes=20_000)
    yield found
    found.close()


def test_rows_are_answered_as_predict_does(served: Served) -> None:
    rows = [[50.5, 47.0, 100.0], [49.0, 60.0, -20.0]]
    expected = {task: values.tolist() for task, values in served.predictor.predict(np.array(rows)).items()}
    assert served.predict(rows) == (200, {"predictions": expected})
    named = [dict(zip(reversed(NAMES), reversed(row), strict=True)) for row in rows]
    assert served.predict(named) == (200, {"predictions": expected})


def test_many_clients_at_once_get_their_own_answers(served: Served) -> None:
    rows = np.random.default_rng(1).normal(50, 20, size=(200, 3))
    expected = served.predictor.predict(rows)
    before = served.ask("/metrics")[1]
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda row: served.predict([row.tolist()]), rows))
    assert {status for status, _ in answers} == {200}
    for task in ("a", "b", "c"):
        found = np.array([answer["predictions"][task][0] for _, answer in answers])
        assert found == pytest.approx(expected[task], rel=1e-5, abs=1e-5)
    passes = [int(text.split("coterie_passes_total ")[2].split()[0]) for text in (before, served.ask("/metrics")[1])]
    assert 0 < passes[1] - passes[0] < 200  # some were answered together


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, "body"),
        (b"\xff", 400, "body"),
        (b"[" * 100_000, 413, "body"),
        (b"[" * 9_000, 400, "body"),
        (b"[1]", 422, "body"),
        (b'{"rows": []}', 422, "rows"),
        (b'{"rows": [[1, 2, 3]], "more": 1}', 422, "body"),
        (b'{"rows": [[1, 2, 3], [1, 2]]}', 422, "rows[1]"),
        (b'{"rows": [[1, "2", 3]]}', 422, "rows[0][1]"),
        (b'{"rows": [[1, true, 3]]}', 422, "rows[0][1]"),
        (b'{"rows": [[1, null, 3]]}', 422, "rows[0][1]"),
        (b'{"rows": [[1, 2, NaN]]}', 422, "rows[0][2]"),
        (b'{"rows": [[1, 2, 1e999]]}', 422, "rows[0][2]"),
        (b'{"rows": [{"height": 1, "weight": 2}]}', 422, "rows[0]"),
        (b'{"rows": [{"height": 1, "weight": 2, "age": "old"}]}', 422, "rows[0][2]"),
        (b'{"rows": [1, 2, 3]}', 422, "rows[0]"),
        (b'{"rows": [{"height": 1, "weight": 2, "age": 3, "zz": 4}]}', 422, "rows[0].zz"),
    ],
)
def test_wrong_input_is_refused_and_the_place_named(served: Served, body: bytes, status: int, where: str) -> None:
    found, answer = served.ask("/predict", body)
    assert (found, answer["error"]["where"]) == (status, where)
    assert served.ask("/health")[1]["status"] == "ok"


def test_too_much_is_refused_before_it_is_read(served: Served) -> None:
    # 100 MB are announced, and none of them sent
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(100_000_000))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    # without an announcement
    parts = (b"[" * 5_000 for _ in range(100))
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request("POST", "/predict", parts, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server had answered and left
    assert served.predict([[1, 2, 3]] * (MOST_ROWS + 1))[0] in (413, 422)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(["rows", "x"]), json_values, max_size=2) | json_values)
def test_whatever_is_sent_the_server_answers(served: Served, value: Any) -> None:
    status, answer = served.ask("/predict", json.dumps(value).encode())
    assert status in (200, 400, 413, 422)
    assert ("predictions" in answer) == (status == 200)


def test_the_document_says_what_is_taken(served: Served) -> None:
    status, document = served.ask("/openapi.json")
    operation = document["paths"]["/predict"]["post"]
    rows = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["rows"]
    assert status == 200
    assert rows["items"]["anyOf"][0] == {
        "type": "array", "minItems": 3, "maxItems": 3, "items": {"type": "number"}
    }  # fmt: skip
    assert rows["items"]["anyOf"][1]["required"] == NAMES
    answers = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["predictions"]
    assert answers["properties"]["b"]["items"]["type"] == "array"  # three classes
    assert answers["properties"]["c"]["items"]["type"] == "number"


def test_counts_are_those_of_what_was_asked(served: Served) -> None:
    before, after = served.ask("/metrics")[1], None
    served.predict([[1, 2, 3]] * 5)
    served.predict("nothing")
    after = served.ask("/metrics")[1]

    def value(text: str, name: str) -> int:
        return sum(int(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    for name, more in (('coterie_requests_total{status="200"}', 1), ('coterie_requests_total{status="422"}', 1)):
        assert value(after, name) - value(before, name) == more
    assert value(after, "coterie_rows_total") - value(before, "coterie_rows_total") == 5
    assert value(after, "coterie_request_seconds_count") - value(before, "coterie_request_seconds_count") == 2


def test_inputs_of_several_parts() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(3, 3)

        def forward(self, left: Any, right: Any) -> Any:
            return self.line(left) + right.sum(1, keepdim=True)

    rng = np.random.default_rng(0)
    x = {"left": rng.normal(size=(80, 3)).astype("f4"), "right": rng.normal(size=(80, 2)).astype("f4")}
    y = np.stack([x["left"][:, 0] > 0, x["left"][:, 1] > 0, x["right"][:, 0] > 0], 1).astype(float)
    work = coterie.from_arrays(x, y, build_model=Two, recipe=coterie.Recipe(epochs=1))
    predictor = coterie.load(coterie.run(work, groups=1, seeds=2, method="label-correlation"))
    found = Served(predictor)
    try:
        row = {"left": [0.5, 1.0, -1.0], "right": [0.25, 2.0]}
        status, answer = found.predict([row, row])
        expected = predictor.predict({name: np.array([value, value]) for name, value in row.items()})
        assert status == 200
        assert answer["predictions"]["task 0"] == pytest.approx(expected["task 0"].tolist())
        assert found.predict([{"left": [0.5, 1.0, -1.0], "right": [0.25]}])[1]["error"]["where"] == "rows[0].right"
        assert found.predict([{"left": [0.5, 1.0, -1.0]}])[1]["error"]["where"] == "rows[0]"
        assert found.predict([{**row, "middle": 1}])[1]["error"]["where"] == "rows[0].middle"
    finally:
        found.close()


class Fails(nn.Module):
    """Answers slowly, and not at all for rows that begin with 9 or 8."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        if not self.training and len(x) < 10 and x.shape[0]:
            time.sleep(0.05)
            if bool((x[:, 0] > 8.5).any()):
                raise ValueError("no 9")
        return self.line(x) * 10.0 ** (30 * (x[:, :1] > 7.5))


@pytest.fixture
def failing() -> Iterator[Served]:
    x = np.random.default_rng(0).normal(size=(60, 2)).astype("f4")
    work = coterie.from_arrays(
        x, x * 3, tasks=["a", "b"], build_model=Fails, recipe=coterie.Recipe(epochs=1), standardize=False
    )
    found = Served(coterie.load(coterie.run(work, groups=1, seeds=2, method="label-correlation")))
    yield found
    found.close()


def test_one_clients_rows_do_not_fail_those_of_others(failing: Served) -> None:
    rows = [[0.1 * n, 0.2] for n in range(8)] + [[9.0, 0.0]]
    with ThreadPoolExecutor(9) as clients:
        answers = list(clients.map(lambda row: failing.predict([row]), rows))
    assert [status for status, _ in answers] == [200] * 8 + [500]
    assert "no 9" in answers[-1][1]["error"]["what"]
    assert 'coterie_requests_total{status="500"} 1' in failing.ask("/metrics")[1]


def test_an_answer_that_is_no_json_is_an_error(failing: Served) -> None:
    status, answer = failing.predict([[8.0, 3e38]])
    assert status == 500
    assert answer["error"]["where"] == "rows"


def test_the_application_serves_inside_another_one(failing: Served) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Mount("/m", app=make_app(failing.predictor))]), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    connection = http.client.HTTPConnection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1], timeout=30)
    connection.request("POST", "/m/predict", json.dumps({"rows": [[0.5, 0.5]]}))
    assert connection.getresponse().status == 200
    connection.close()
    server.should_exit = True
    thread.join(10)
