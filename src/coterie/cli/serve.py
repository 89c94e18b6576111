"""``coterie serve`` and ``coterie export``: the models of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from coterie.cli.session import Session, in_session

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Source = Annotated[
    str | None,
    typer.Option("--workload", help="FILE.py:NAME of the workload, for models of your own; that file is run."),
]


@in_session()
def serve(
    s: Session,
    run: RunPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    workload: Source = None,
    most_bytes: Annotated[int, typer.Option(min=1, help="Largest request.")] = 8 * 2**20,
) -> None:
    """Serve the models of a run over HTTP: POST /predict with {"rows": [[...], ...]}.

    Example: [bold]coterie serve runs/mine --port 8000[/bold]
    """
    from coterie.errors import require
    from coterie.serving import load
    from coterie.serving.http import make_app

    require("uvicorn", extra="serve", purpose="coterie serve")
    import uvicorn

    predictor = load(run, workload=workload)
    app: Any = make_app(predictor, most_bytes=most_bytes)
    s.say(f"{len(predictor.tasks)} tasks, {len(predictor.groups)} models at http://{host}:{port}/predict")
    uvicorn.run(app, host=host, port=port, log_level="warning")


@in_session()
def export(
    s: Session,
    run: RunPath,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file, .onnx or .pt2.", show_default=False)],
    workload: Source = None,
) -> None:
    """Write the models of a run as one file: FILE.onnx, or FILE.pt2 for torch.export.

    Example: [bold]coterie export runs/mine served.onnx[/bold]
    """
    from coterie.errors import SettingError
    from coterie.serving import load

    formats = {".onnx": "onnx", ".pt2": "torch.export"}
    if out.suffix not in formats:
        raise SettingError(f"FILE should end in .onnx or .pt2. Found {str(out)!r}.")
    path = load(run, workload=workload).export(out, formats[out.suffix])
    if s.as_json:
        s.emit({"file": str(path), "format": formats[out.suffix]})
    else:
        s.say(str(path))
