"""The gradient-statistics engine: moments out of the ordinary backward pass."""

from gradbatch.probe import linear as _linear  # a formula is found by being registered
from gradbatch.probe.formulas import Formula, register_formula
from gradbatch.probe.probe import Estimator, Measurement, Probe

__all__ = ["Estimator", "Formula", "Measurement", "Probe", "register_formula"]

del _linear
