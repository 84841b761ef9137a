"""Bounds on the evidence and estimators of their gradients, for `pyrovae.fit` and Pyro's `SVI`.

SGVB_A, SGVB_B   the ELBO by reparameterized draws, the KL sampled or in closed form
                 (Kingma & Welling 2014, eqs. 6 and 7)
FreeBits         the same with a floor under the KL of each dimension (Kingma et al. 2016, eq. 15)
ScoreFunction    the ELBO by the score function, with or without a baseline
                 (Kingma & Welling 2014, section 2.2)
IWAE, DReG       log (1 / K) sum_k w_k, and its gradient without the score term
                 (Burda et al. 2016; Tucker et al. 2019)
Renyi            1 / (1 - alpha) log (1 / K) sum_k w_k^(1 - alpha) (Li & Turner 2016)
WakeSleep, ReweightedWakeSleep   model and guide each with a loss of its own
                 (Hinton et al. 1995; Bornschein & Bengio 2015)
MonteCarloEM     the model by draws from its posterior, made by Hamiltonian Monte Carlo
                 (Kingma & Welling 2014, appendix E)
PyroELBO         one of Pyro's own ELBOs as an objective
warm_up, cyclical   schedules for beta, the weight of the KL

`Objective.differentiable_loss` is one minibatch's loss, for a training loop of one's own.
"""

from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.foreign import PyroELBO, as_objective
from pyrovae.objectives.importance import IWAE, DReG, Renyi
from pyrovae.objectives.monte_carlo_em import MonteCarloEM
from pyrovae.objectives.schedules import Schedule, cyclical, warm_up
from pyrovae.objectives.score import LeaveOneOut, RunningMean, ScoreFunction
from pyrovae.objectives.sgvb import SGVB_A, SGVB_B, FreeBits
from pyrovae.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "IWAE",
    "SGVB_A",
    "SGVB_B",
    "Bound",
    "DReG",
    "FreeBits",
    "LeaveOneOut",
    "MonteCarloEM",
    "Objective",
    "PyroELBO",
    "Renyi",
    "ReweightedWakeSleep",
    "RunningMean",
    "Schedule",
    "ScoreFunction",
    "WakeSleep",
    "as_objective",
    "cyclical",
    "warm_up",
]
