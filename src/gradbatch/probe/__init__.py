"""The gradient-statistics engine: moments out of the ordinary backward pass."""

from gradbatch.probe import convolution as _convolution  # operations are found by being entered
from gradbatch.probe.probe import Estimator, Measurement, Probe

__all__ = ["Estimator", "Measurement", "Probe"]

del _convolution
