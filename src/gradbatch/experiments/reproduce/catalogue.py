"""All experiments, by name."""

from gradbatch.experiments.reproduce import dba, regret
from gradbatch.experiments.reproduce.experiment import Experiment

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment for family in (dba, regret) for experiment in family.EXPERIMENTS
}
"""The experiments in the order of the pages."""
