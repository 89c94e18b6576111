"""Contiguous intervals of ordered tasks, such as time steps: costs, and the exact dynamic programme."""
