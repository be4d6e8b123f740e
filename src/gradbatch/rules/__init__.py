"""The rules, one per file, and the wrappers that hold a rule.

`RULES` finds a rule by the name that the command line, the logs and the reports call it.
"""

from typing import Any

from gradbatch._types import Rule
from gradbatch.rules.cabs import CABS
from gradbatch.rules.fixed import Fixed
from gradbatch.rules.schedule import Schedule
from gradbatch.rules.wrappers import Clip, Every, RoundTo, Warmup

__all__ = ["CABS", "RULES", "Clip", "Every", "Fixed", "RoundTo", "Schedule", "Warmup"]

RULES: dict[str, type[Rule[Any]]] = {"cabs": CABS, "fixed": Fixed, "schedule": Schedule}
