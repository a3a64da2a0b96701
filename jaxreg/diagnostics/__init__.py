"""Looking at what a penalty did."""

from jaxreg.diagnostics.describe_decay import DecayDescription, describe_decay
from jaxreg.diagnostics.report import Report, report
from jaxreg.diagnostics.sparsity import sparsity

__all__ = ["DecayDescription", "Report", "describe_decay", "report", "sparsity"]
