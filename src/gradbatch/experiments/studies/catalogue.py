"""All experiments, by name."""

from gradbatch.experiments.reproduce.experiment import Experiment
from gradbatch.experiments.studies import (
    adabatch,
    adabatch_times,
    ba,
    ba_appendix,
    ba_boom,
    ba_covariance,
    ba_rates,
    ba_relation,
    cabs,
    dba,
    dba_audit,
    dba_figures,
    regret,
    regret_floor,
    regret_seeds,
    speed,
)

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for family in (
        dba,
        dba_figures,
        dba_audit,
        ba,
        ba_rates,
        ba_boom,
        ba_relation,
        ba_appendix,
        ba_covariance,
        cabs,
        adabatch,
        adabatch_times,
        speed,
        regret,
        regret_floor,
        regret_seeds,
    )
    for experiment in family.EXPERIMENTS
}
"""The experiments in the order of the pages."""
