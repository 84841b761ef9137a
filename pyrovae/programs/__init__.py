"""Run pairs of Pyro programs (model, guide) and read their traces.

Everything here works on any object with `model` and `guide`: plates and parameters, traces and the
terms in them, several draws at once, checks, isolation from global state, Hamiltonian Monte Carlo.
Private parts of Pyro and torch are used in this room, behind the switch `plain_pyro`.
"""

from pyrovae.programs import hmc
from pyrovae.programs.angles import direction, moment, on_circle
from pyrovae.programs.callers import level_of_user
from pyrovae.programs.checks import (
    PART_OF_ROW,
    check_all_rows,
    check_auxiliary,
    check_density,
    check_measures,
    check_sites,
    check_whole_rows,
    holds_draw,
    is_delta,
)
from pyrovae.programs.draws import find_layout, name_rows
from pyrovae.programs.explained import explained
from pyrovae.programs.first_use import prepare_process
from pyrovae.programs.isolation import (
    cuda_devices,
    evaluation,
    modes_restored,
    random_stream,
    seed_streams,
)
from pyrovae.programs.layout import Layout
from pyrovae.programs.modules import Graph, Programs, check_data
from pyrovae.programs.one_thread import one_fit
from pyrovae.programs.param_store import parameters_held, register
from pyrovae.programs.plain import is_plain, plain_pyro
from pyrovae.programs.plates import data_plate
from pyrovae.programs.posterior import (
    depends_on_other_latents,
    draws_given_latents,
    is_categorical,
    is_class_number,
    latent_of_rows,
    mean,
    means,
    posterior,
)
from pyrovae.programs.shapes import check_shapes
from pyrovae.programs.simulation import (
    Simulated,
    check_forwards,
    look,
    look_for_rows,
    simulate,
    simulated,
)
from pyrovae.programs.terms import (
    analytic_kl,
    common_scale,
    factor_of_rows,
    kl_of_dimensions,
    log_mean_exp,
    log_prob,
    log_prob_of_rows,
    not_finite,
    not_resolved,
    sampled_kl,
    unscaled,
    weights_of,
)
from pyrovae.programs.traces import (
    Program,
    Site,
    StopGradient,
    Trace,
    densities,
    latent,
    latent_by_name,
    leaf,
    observed,
    record,
    run,
    support_of,
    total,
)
from pyrovae.programs.unimplemented import named_error, without_inverse

__all__ = [
    "PART_OF_ROW",
    "Graph",
    "Layout",
    "Program",
    "Programs",
    "Simulated",
    "Site",
    "StopGradient",
    "Trace",
    "analytic_kl",
    "check_all_rows",
    "check_auxiliary",
    "check_data",
    "check_density",
    "check_forwards",
    "check_measures",
    "check_shapes",
    "check_sites",
    "check_whole_rows",
    "common_scale",
    "cuda_devices",
    "data_plate",
    "densities",
    "depends_on_other_latents",
    "direction",
    "draws_given_latents",
    "evaluation",
    "explained",
    "factor_of_rows",
    "find_layout",
    "hmc",
    "holds_draw",
    "is_categorical",
    "is_class_number",
    "is_delta",
    "is_plain",
    "kl_of_dimensions",
    "latent",
    "latent_by_name",
    "latent_of_rows",
    "leaf",
    "level_of_user",
    "log_mean_exp",
    "log_prob",
    "log_prob_of_rows",
    "look",
    "look_for_rows",
    "mean",
    "means",
    "modes_restored",
    "moment",
    "name_rows",
    "named_error",
    "not_finite",
    "not_resolved",
    "observed",
    "on_circle",
    "one_fit",
    "parameters_held",
    "plain_pyro",
    "posterior",
    "prepare_process",
    "random_stream",
    "record",
    "register",
    "run",
    "sampled_kl",
    "seed_streams",
    "simulate",
    "simulated",
    "support_of",
    "total",
    "unscaled",
    "weights_of",
    "without_inverse",
]
