"""Structures across leaves, read from the model's own function, and their removal."""

from jaxreg.structures.accounts import CompactReport
from jaxreg.structures.compaction import Compacted
from jaxreg.structures.graph import Graph, Group, Member, Pin
from jaxreg.structures.refusals import Refusal
from jaxreg.structures.saving import Loaded, load, save
from jaxreg.structures.tracing import trace

__all__ = [
    "CompactReport",
    "Compacted",
    "Graph",
    "Group",
    "Loaded",
    "Member",
    "Pin",
    "Refusal",
    "load",
    "save",
    "trace",
]
