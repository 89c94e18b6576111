"""Models over subsets that learn from really trained ones, alone or on top of an estimate."""
