"""The gradient-statistics engine: moments out of the ordinary backward pass."""

from gradbatch.probe import convolution as _convolution  # operations are found by being entered
from gradbatch.probe import elementwise as _elementwise
from gradbatch.probe import lookups as _lookups
from gradbatch.probe import normalisation as _normalisation
from gradbatch.probe import products as _products
from gradbatch.probe import recurrent as _recurrent
from gradbatch.probe.comparison import Comparison, check
from gradbatch.probe.measurement import Measurement
from gradbatch.probe.own_layers import register_formula
from gradbatch.probe.probe import Estimator, Probe
from gradbatch.probe.quantities import BY_LAYERS, PRECONDITIONED

__all__ = [
    "BY_LAYERS",
    "PRECONDITIONED",
    "Comparison",
    "Estimator",
    "Measurement",
    "Probe",
    "check",
    "register_formula",
]

del _convolution, _elementwise, _lookups, _normalisation, _products, _recurrent
