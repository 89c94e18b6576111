"""What a person looks at: one self-contained HTML page, the same result on the console, figures."""

from coterie._earlier import earlier
from coterie._lazy import load_on_first_use
from coterie.report.console import print_summary
from coterie.report.figures import affinity_figure, gains_figure
from coterie.report.html import write_report
from coterie.report.text import summary_text

__all__ = [
    "affinity_figure",
    "gains_figure",
    "print_summary",
    "summary_text",
    "write_report",
]

__getattr__ = load_on_first_use(__name__, {}, earlier(__name__))
