"""Running pairs of Pyro programs (model, guide): plates, parameters, traces, terms, checks, isolation, HMC."""

from pyrovae.distributions import kl_divergence
from pyrovae.programs import hmc
from pyrovae.programs.checks import check_density, check_sites
from pyrovae.programs.isolation import cuda_devices, evaluation, random_stream
from pyrovae.programs.param_store import parameters_held, register
from pyrovae.programs.plates import SAMPLES, data_plate
from pyrovae.programs.posterior import mean, posterior
from pyrovae.programs.terms import analytic_kl, log_prob, not_finite, per_row, sampled_kl
from pyrovae.programs.traces import Program, Site, Trace, leaf, record, run, simulated, sites, total

__all__ = [
    "SAMPLES",
    "Program",
    "Site",
    "Trace",
    "analytic_kl",
    "check_density",
    "check_sites",
    "cuda_devices",
    "data_plate",
    "evaluation",
    "hmc",
    "kl_divergence",
    "leaf",
    "log_prob",
    "mean",
    "not_finite",
    "parameters_held",
    "per_row",
    "posterior",
    "random_stream",
    "record",
    "register",
    "run",
    "sampled_kl",
    "simulated",
    "sites",
    "total",
]
