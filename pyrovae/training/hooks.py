"""Hooks of `pyrovae.fit`: called after each step and each epoch; loggers are hooks.

    pv.fit(vae, x, hooks=[pv.hooks.TensorBoard("runs/mine/events"), pv.hooks.CSV("steps.csv")])

A hook of your own overrides what it needs:

    class Print(pv.hooks.Hook):
        def on_step(self, step):
            print(step.step, step.elbo, step.gradient_norm)
"""

from pyrovae.training.events import Epoch, Hook, Start, Step
from pyrovae.training.loggers import CSV, ProgressBar, TensorBoard, on_terminal

__all__ = ["CSV", "Epoch", "Hook", "ProgressBar", "Start", "Step", "TensorBoard", "on_terminal"]
