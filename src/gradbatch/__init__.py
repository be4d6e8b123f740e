"""Batch sizes chosen during training, from the gradients themselves."""

from gradbatch._types import Decision as Decision
from gradbatch._types import LayerStatistics as LayerStatistics
from gradbatch._types import Progress as Progress
from gradbatch._types import Record as Record
from gradbatch._types import Rule as Rule
from gradbatch._types import Statistics as Statistics
from gradbatch.controller import Controller as Controller
from gradbatch.errors import GradbatchError as GradbatchError
from gradbatch.probe import Probe as Probe
from gradbatch.probe import check as check
from gradbatch.probe import register_formula as register_formula
from gradbatch.rules import BA as BA
from gradbatch.rules import CABS as CABS
from gradbatch.rules import DBA as DBA
from gradbatch.rules import AdaBatch as AdaBatch
from gradbatch.rules import AdaScale as AdaScale
from gradbatch.rules import Clip as Clip
from gradbatch.rules import DiveBatch as DiveBatch
from gradbatch.rules import Every as Every
from gradbatch.rules import Fixed as Fixed
from gradbatch.rules import Goodput as Goodput
from gradbatch.rules import Hysteresis as Hysteresis
from gradbatch.rules import InnerProductTest as InnerProductTest
from gradbatch.rules import LossRatio as LossRatio
from gradbatch.rules import NoiseFloor as NoiseFloor
from gradbatch.rules import NoiseScale as NoiseScale
from gradbatch.rules import NormTest as NormTest
from gradbatch.rules import RoundTo as RoundTo
from gradbatch.rules import ScaleLR as ScaleLR
from gradbatch.rules import Schedule as Schedule
from gradbatch.rules import SimiGrad as SimiGrad
from gradbatch.rules import Warmup as Warmup
from gradbatch.schedules import BySamples as BySamples
from gradbatch.stream import SampleStream as SampleStream

__all__ = [
    "BA",
    "CABS",
    "DBA",
    "AdaBatch",
    "AdaScale",
    "BySamples",
    "Clip",
    "Controller",
    "Decision",
    "DiveBatch",
    "Every",
    "Fixed",
    "Goodput",
    "GradbatchError",
    "Hysteresis",
    "InnerProductTest",
    "LayerStatistics",
    "LossRatio",
    "NoiseFloor",
    "NoiseScale",
    "NormTest",
    "Probe",
    "Progress",
    "Record",
    "RoundTo",
    "Rule",
    "SampleStream",
    "ScaleLR",
    "Schedule",
    "SimiGrad",
    "Statistics",
    "Warmup",
    "check",
    "register_formula",
]

__version__ = "0.1.0.dev0"
