"""The rules, one per file, and the wrappers that hold a rule.

`RULES` finds a rule by the name that the command line, the logs and the reports call it.
"""

from typing import Any

from gradbatch._types import Rule
from gradbatch.rules.adabatch import AdaBatch
from gradbatch.rules.adascale import AdaScale
from gradbatch.rules.ba import BA
from gradbatch.rules.cabs import CABS
from gradbatch.rules.dba import DBA
from gradbatch.rules.divebatch import DiveBatch
from gradbatch.rules.fixed import Fixed
from gradbatch.rules.goodput import Goodput
from gradbatch.rules.inner_product_test import InnerProductTest
from gradbatch.rules.loss_ratio import LossRatio
from gradbatch.rules.noise_floor import NoiseFloor
from gradbatch.rules.noise_scale import NoiseScale
from gradbatch.rules.norm_test import NormTest
from gradbatch.rules.scale_lr import ScaleLR
from gradbatch.rules.schedule import Schedule
from gradbatch.rules.simigrad import SimiGrad
from gradbatch.rules.wrappers import Clip, Every, Hysteresis, RoundTo, Warmup

__all__ = [
    "BA",
    "CABS",
    "DBA",
    "RULES",
    "AdaBatch",
    "AdaScale",
    "Clip",
    "DiveBatch",
    "Every",
    "Fixed",
    "Goodput",
    "Hysteresis",
    "InnerProductTest",
    "LossRatio",
    "NoiseFloor",
    "NoiseScale",
    "NormTest",
    "RoundTo",
    "ScaleLR",
    "Schedule",
    "SimiGrad",
    "Warmup",
]

RULES: dict[str, type[Rule[Any]]] = {
    "adabatch": AdaBatch,
    "adascale": AdaScale,
    "ba": BA,
    "cabs": CABS,
    "dba": DBA,
    "divebatch": DiveBatch,
    "fixed": Fixed,
    "goodput": Goodput,
    "inner-product-test": InnerProductTest,
    "loss-ratio": LossRatio,
    "noise-floor": NoiseFloor,
    "noise-scale": NoiseScale,
    "norm-test": NormTest,
    "schedule": Schedule,
    "simigrad": SimiGrad,
}
