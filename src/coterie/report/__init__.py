"""What a person looks at: one self-contained HTML page, the same result on the console, figures."""

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
