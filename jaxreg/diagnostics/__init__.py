"""Looking at what a penalty did."""

from jaxreg.diagnostics.report import Report, report
from jaxreg.diagnostics.sparsity import sparsity

__all__ = ["Report", "report", "sparsity"]
