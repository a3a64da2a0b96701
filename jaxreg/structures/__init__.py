"""Structures across leaves, read from the model's own function."""

from jaxreg.structures.graph import Graph, Group, Member, Pin
from jaxreg.structures.tracing import trace

__all__ = ["Graph", "Group", "Member", "Pin", "trace"]
