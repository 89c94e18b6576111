"""Text: a frozen transformer that all models share, low-rank adapters and heads that are trained."""

from coterie.workload.text.encoder import TextEncoder
from coterie.workload.text.from_text import from_text
from coterie.workload.text.tokens import encode_text

__all__ = ["TextEncoder", "encode_text", "from_text"]
