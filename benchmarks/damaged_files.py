"""What happens when a file is damaged: how many of thousands are refused, harmless, or worse.

Small models are saved, one file of each is damaged, and it is read again:

    refused   a `pyrovae.FileError` (or a FileNotFoundError) that names the file; the graph that was
              to be filled, Pyro's store and the random stream are as they were
    harmless  the answers of the undamaged file: weights, bounds, history
    silent    other answers, without a word
    raw       any other error, an error after something was changed, or no end within 20 seconds

Apart from them: files edited by someone who computed the digest again. An editor may change a model
(another sigma, another weight), so `edited` is no fault there; an edited model may also contradict
itself in what only a use shows, which is counted under `in use`.

    python benchmarks/damaged_files.py [--files 2400] [--seed 0] [--json FILE]

The exit status is 1 if any file was accepted silently or gave a raw error.
"""

import argparse
import copy
import functools
import hashlib
import json
import random
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

import pyrovae as pv
from pyrovae.command.experiment import experiment_of
from pyrovae.command.fit import fit_and_report
from pyrovae.command.inspection import describe
from pyrovae.command.options import DEFAULTS, Options
from pyrovae.command.runs import Run
from pyrovae.files import checkpoint, sealed

SECONDS = 20
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**6, 10**12, 2**63, 10**30, 0.5, -1.5, 1e300),
    *(float("nan"), float("inf"), "", "x", "graphs.VAE", [], [1], ["x"], {}, {"a": 1}),
    *({"tensor": [10**6, 10**6]}, {"class": "priors.Flat", "arguments": {}}),
)
Answer = tuple[Any, ...]


@dataclass(frozen=True)
class Subject:
    """A kind of saved files.

    Attributes:
        name: of the kind.
        make: writes the files, undamaged; the seed gives other weights.
        read: reads them, and returns what to ask the answers of.
        ask: the answers.
        edit: changes one file as an editor would, digest and all.
    """

    name: str
    make: Callable[[Path, int], None]
    read: Callable[[Path], Any]
    ask: Callable[[Any], Answer]
    edit: Callable[[Path, random.Random], None]


# ------------------------------------------------------------------------------------ small models
def data() -> torch.Tensor:
    """Return 24 rows of 6 binary values."""
    return (torch.rand(24, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def vae(seed: int, posterior: nn.Module | None = None) -> pv.VAE:
    """Return a small model with first weights of a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        q = posterior or pv.posteriors.IAF(
            pv.nets.MLP(6, (5,), 7), 2, steps=2, hidden=(4,), context=3
        )
        likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, (5,), 6))
        return pv.VAE(pv.priors.Mixture(2, 3), q, likelihood)


class Own(nn.Module):
    """A graph of the user's, with a part of the library and a parameter in Pyro's store."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = vae(seed)

    def model(self, x: torch.Tensor) -> None:
        """The model of the part."""
        self.inner.model(x)

    def guide(self, x: torch.Tensor) -> None:
        """A guide whose scale is a parameter in Pyro's store."""
        scale = pyro.param(
            "scale", torch.ones(2), constraint=pyro.distributions.constraints.positive
        )
        with pyro.plate("rows", len(x)):
            mean = self.inner.posterior.net(x)[:, :2]
            pyro.sample("z", pyro.distributions.Normal(mean, scale).to_event(1))


def quiet(graph: Any, **more: Any) -> pv.History:
    """Fit with fixed settings."""
    settings = {"epochs": 3, "batch_size": 8, "seed": 2, "validation": data()[:8]}
    return pv.fit(graph, data(), progress=False, **settings | more)


def tensors_of(graph: nn.Module) -> tuple[bytes, ...]:
    """Return names and bytes of all weights."""
    state = sorted(graph.state_dict().items())
    return tuple(name.encode() + value.detach().numpy().tobytes() for name, value in state)


def of_history(history: Any) -> str:
    """Return a history as text, without the time it took."""
    content = history.to_dict() if isinstance(history, pv.History) else dict(history)
    return json.dumps({key: value for key, value in content.items() if key != "seconds"})


def elbo(graph: Any) -> tuple[float, ...]:
    """Return the ELBO of each row."""
    return tuple(pv.elbo(graph, data(), samples=2).elbo.tolist())


# ---------------------------------------------------------------------------------- kinds of files
def make_model(folder: Path, seed: int) -> None:
    """Fit and save a model."""
    graph = vae(seed)
    pv.save(graph, folder, history=quiet(graph), metrics={"elbo": -3.5})


def read_model(folder: Path) -> Any:
    """Load and inspect it, and describe it as `pyrovae inspect` does."""
    content, lines = pv.inspect(folder), describe(folder)
    return pv.load(folder), content["history"], content["metrics"], lines


def ask_model(found: Any) -> Answer:
    """Return weights, bounds, history and metrics."""
    graph, history, *facts = found
    return tensors_of(graph), elbo(graph), of_history(history or {}), json.dumps(facts)


def make_own(folder: Path, seed: int) -> None:
    """Fit and save a graph of the user's."""
    graph = Own(seed)
    pyro.clear_param_store()
    quiet(graph)
    with torch.no_grad():
        pyro.param("scale").unconstrained().fill_(-0.25)
    pv.save(graph, folder)
    pyro.clear_param_store()


def read_own(folder: Path) -> Any:
    """Load it into a graph; a refusal must leave the graph and the store as they were."""
    graph = Own(9)
    pyro.clear_param_store()
    before = tensors_of(graph), torch.get_rng_state()
    try:
        return pv.load(folder, into=graph)
    except BaseException as error:
        unchanged = before[0] == tensors_of(graph) and not list(pyro.get_param_store().keys())
        if not unchanged or not torch.equal(before[1], torch.get_rng_state()):
            raise AssertionError(f"refused after something was changed: {error}") from error
        raise


def ask_own(graph: Any) -> Answer:
    """Return weights and bounds."""
    return tensors_of(graph), elbo(graph), tuple(pyro.param("scale").tolist())


def make_checkpoint(folder: Path, seed: int) -> None:
    """Fit with a scheduler and a warm-up, and stop after two of three epochs.

    That of another seed has another batch size: a checkpoint of the same fit would be no damage.
    """
    settings = {**checkpoint_settings(), "batch_size": 8 + seed}
    quiet(vae(seed), **settings, checkpoint=folder / "state", callback=second)


def second(history: pv.History) -> bool:
    """Whether two epochs were trained."""
    return len(history.loss) == 2


def checkpoint_settings() -> dict[str, Any]:
    """Return what the fit and its continuation share."""
    step = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    objective = pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.4))
    return {"scheduler": step, "objective": objective, "clip_norm": 5.0}


def read_checkpoint(folder: Path) -> Any:
    """Resume; a refusal must leave the graph and the random stream as they were."""
    graph = vae(9)
    before = tensors_of(graph), torch.get_rng_state()
    try:
        return graph, quiet(graph, **checkpoint_settings(), resume=folder / "state")
    except pv.TrainingError:
        raise
    except BaseException as error:
        same = before[0] == tensors_of(graph)
        if not same or not torch.equal(before[1], torch.get_rng_state()):
            raise AssertionError(f"refused after something was changed: {error}") from error
        raise


def ask_checkpoint(found: Any) -> Answer:
    """Return weights and history."""
    return tensors_of(found[0]), of_history(found[1])


def make_cells(folder: Path, seed: int) -> None:
    """Fit and save a model of cells."""
    adata = cells()
    model = pv.singlecell.SingleCellVAE(adata, n_hidden=6, n_latent=2, seed=seed)
    model.train(2, progress=False)
    model.save(folder)


@functools.cache
def cells() -> Any:
    """Return 40 cells of 12 genes in two batches, with a covariate."""
    from pyrovae.singlecell import SingleCellVAE, simulate

    adata = simulate(cells=40, genes=12, seed=1).to_anndata()
    adata.obs["age"] = np.linspace(20.0, 60.0, adata.n_obs)
    keys = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}
    SingleCellVAE.setup_anndata(adata, **keys)
    return adata


def read_cells(folder: Path) -> Any:
    """Load it without its cells."""
    from pyrovae.singlecell import SingleCellVAE

    return SingleCellVAE.load(folder)


def ask_cells(model: Any) -> Answer:
    """Return weights, embedding, expression, split, seed and history."""
    z = model.get_latent_representation(cells())
    expression = model.get_normalized_expression(cells(), seed=0)
    split = model.train_indices.tolist(), model.validation_indices.tolist()
    facts = *split, model.seed, of_history(model.fit_result.history)
    return tensors_of(model.graph), z.tobytes(), expression.to_numpy().tobytes(), facts


def make_run(folder: Path, seed: int) -> None:
    """Fit by the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(1).normal([5.0, 50.0, 500.0], [1.0, 10.0, 100.0], (40, 3))
    np.save(folder.parent / "rows.npy", table)
    given = {"data": str(folder.parent / "rows.npy"), "output": folder, "overwrite": True}
    small = {"hidden": [5], "latents": 2, "epochs": 2, "samples": 5, "report": False, "seed": seed}
    fit_and_report(Options(**DEFAULTS | given | small | {"quiet": True}), lambda line: None)


def read_run(folder: Path) -> Any:
    """Open it, as `pyrovae evaluate` does."""
    run = Run.open(folder)
    rows = str(folder.parent / "rows.npy")
    return experiment_of(type(run.settings)).open(run, rows, None, None)


def ask_run(experiment: Any) -> Answer:
    """Return weights, figures and the table that `evaluate` prints."""
    figures = experiment.measure(5, 20)
    lines = [row.line() for row in experiment.table(figures)]
    facts = experiment.facts(), experiment.run.settings.seed, experiment.model.reconstruct
    samples = experiment.model.generate(3).tobytes()
    return tensors_of(experiment.model.graph), str(facts[:2]), tuple(lines), samples


# ------------------------------------------------------------------------------------------ damage
def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Flip one to three bits."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(content: bytes, rng: random.Random) -> bytes:
    """Overwrite up to 64 bytes in a row, by zeros or at random."""
    at, n = rng.randrange(len(content)), rng.randint(1, 64)
    new = bytes(n) if rng.random() < 0.5 else rng.randbytes(n)
    return content[:at] + new + content[at + n :]


def truncate(content: bytes, rng: random.Random) -> bytes:
    """Cut the end off."""
    return content[: rng.randrange(len(content))]


def append(content: bytes, rng: random.Random) -> bytes:
    """Append bytes, or the file again."""
    return content + (rng.randbytes(rng.randint(1, 99)) if rng.random() < 0.7 else content)


def nest(content: bytes, rng: random.Random) -> bytes:
    """Replace a number or a text by lists within lists."""
    depth = rng.choice((90, 150, 500, 990, 5_000, 200_000))
    digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [0]
    at = rng.choice(digits)
    return content[:at] + b"[" * depth + b"1" + b"]" * depth + content[at + 1 :]


def header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file: its length, or a field of it."""
    end = 8 + int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        size = rng.choice((0, 1, 7, end, 2**31, 2**63, rng.randrange(end)))
        return size.to_bytes(8, "little") + content[8:]
    fields = json.loads(content[8:end])
    changed = json.dumps(replaced(fields, rng)).encode()
    return len(changed).to_bytes(8, "little") + changed + content[end:]


def fields(content: bytes, rng: random.Random) -> bytes:
    """Replace or remove a field of a JSON file."""
    return json.dumps(replaced(json.loads(content), rng)).encode()


def replaced(content: Any, rng: random.Random) -> Any:
    """Return JSON content with one value replaced, removed or exchanged with another."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    elif rng.random() < 0.2:
        other, place = rng.choice(places)
        holder[key], other[place] = other[place], holder[key]
    elif isinstance(holder[key], int | float) and rng.random() < 0.4:
        holder[key] = holder[key] * rng.choice((2, -1, 0.5)) + rng.choice((0, 1))
    else:
        holder[key] = rng.choice(VALUES)
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content.keys() if isinstance(content, dict) else range(len(content))
    for key in list(keys):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


def swap(folder: Path, other: Path, rng: random.Random) -> None:
    """Exchange a file for that of another model, under its own name."""
    pairs = [(a, b) for a in _files(folder) for b in _files(other) if a.suffix == b.suffix]
    mine, theirs = rng.choice(pairs)
    mine.write_bytes(theirs.read_bytes())


def _files(folder: Path) -> list[Path]:
    known = {".json", ".safetensors", ""}
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix in known]
    return sorted(path for path in paths if path.name != "metrics.json")


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": flip_bits,
    "bytes overwritten": overwrite,
    "truncated": truncate,
    "bytes appended": append,
    "nested": nest,
    "header": header,
    "fields": fields,
}


def damage(folder: Path, other: Path, rng: random.Random) -> str:
    """Damage one file of a folder; return how."""
    if rng.random() < 0.1:
        swap(folder, other, rng)
        return "files swapped"
    path = rng.choice(_files(folder))
    text = path.suffix == ".json"
    kinds = [kind for kind in DAMAGE if kind != ("header" if text else "fields")]
    kind = rng.choice(kinds)
    path.write_bytes(DAMAGE[kind](path.read_bytes(), rng))
    return kind


# --------------------------------------------------------------------- edits, with a digest anew
def edit_model(folder: Path, rng: random.Random) -> None:
    """Edit model.json, or the weights."""
    path = folder / "model.json"
    whole = json.loads(path.read_text())
    if rng.random() < 0.7:
        whole["content"] = replaced(whole["content"], rng)
    else:
        weights = next(folder.glob("weights-*"))
        changed = header(weights.read_bytes(), rng)
        weights.write_bytes(changed)
        whole["content"]["weights"]["sha256"] = hashlib.sha256(changed).hexdigest()
    text = json.dumps(whole["content"], sort_keys=True).encode()
    whole["sha256"] = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps(whole))


def edit_sealed(name: str, folder: Path, rng: random.Random) -> None:
    """Edit a JSON file that carries a digest."""
    path = folder / name
    content = json.loads(path.read_text())
    format, _ = content.pop("format"), content.pop("sha256")
    changed = replaced(content, rng)
    whole = sealed(format, changed) if isinstance(changed, dict) else changed
    path.write_text(json.dumps(whole))


def edit_checkpoint(folder: Path, rng: random.Random) -> None:
    """Edit the state in a checkpoint: a value, or a tensor."""
    state = checkpoint.read(folder / "state")
    places = list(_places(state))
    holder, key = rng.choice(places)
    value = holder[key]
    if isinstance(value, torch.Tensor):
        reshaped = value.flatten(), value[None], value.double(), value.bool(), value * 2 + 1
        holder[key] = rng.choice((*reshaped, None, 3, "x"))
    elif rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(VALUES)
    checkpoint.write(folder / "state", state)


SUBJECTS = (
    Subject("model folder", make_model, read_model, ask_model, edit_model),
    Subject("own graph, load(into=)", make_own, read_own, ask_own, edit_model),
    Subject("checkpoint", make_checkpoint, read_checkpoint, ask_checkpoint, edit_checkpoint),
    Subject(
        "cells", make_cells, read_cells, ask_cells, functools.partial(edit_sealed, "cells.json")
    ),
    Subject("run", make_run, read_run, ask_run, functools.partial(edit_sealed, "run.json")),
)


# ------------------------------------------------------------------------------------- the verdict
@contextmanager
def limited() -> Iterator[None]:
    """Context that raises a TimeoutError after some seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def verdict(subject: Subject, folder: Path, expected: Answer) -> tuple[str, str]:
    """Read damaged files, and return what happened and the error."""
    with warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        try:
            found = subject.read(folder)
        except (pv.FileError, FileNotFoundError) as error:
            named = str(folder) in str(error)
            return ("refused" if named else "raw"), f"{type(error).__name__}: {error}"
        except pv.TrainingError as error:
            return "in use", f"{type(error).__name__}: {error}"
        except BaseException as error:
            return "raw", f"{type(error).__name__}: {error}"
        try:
            answer = subject.ask(found)
        except BaseException as error:
            return "in use", f"{type(error).__name__}: {error}"
    return ("harmless" if answer == expected else "silent"), ""


def trial(
    subject: Subject, pristine: Path, folder: Path, expected: Answer, edited: bool, seed: int
) -> tuple[str, str, str]:
    """Damage a copy of the files and read it; return how, what happened, and the error."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    if edited:
        how = "edited, digest anew"
        subject.edit(folder, rng)
    else:
        how = damage(folder, pristine.with_name("other"), rng)
    outcome, error = verdict(subject, folder, expected)
    if not edited:
        outcome = "raw" if outcome == "in use" else outcome
    elif outcome == "silent":
        outcome = "edited"
    return how, outcome, error


def count(subject: Subject, files: int, edits: int, seed: int, home: Path) -> Iterator[Any]:
    """Yield the trials of one kind of files: how, what happened, the error."""
    pristine, other = home / "pristine", home / "other"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        subject.make(pristine, 0)
        subject.make(other, 1)
    expected = subject.ask(subject.read(pristine))
    if expected != subject.ask(subject.read(pristine)):
        raise RuntimeError(f"{subject.name}: two readings of one file differ")
    for number in range(files + edits):
        folder = home / "damaged"
        yield trial(subject, pristine, folder, expected, number >= files, seed + number)


def report(found: dict[str, Counter[str]], columns: tuple[str, ...]) -> None:
    """Print a table of counts."""
    print(f"{'':32}{'files':>8}" + "".join(f"{name:>10}" for name in columns))
    for name, counts in found.items():
        row = "".join(f"{counts[column]:>10}" for column in columns)
        print(f"{name:32}{sum(counts.values()):>8}{row}")


def main() -> int:
    """Count, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2500, help="damaged files, over all kinds")
    parser.add_argument("--edits", type=int, default=1000, help="edited files, over all kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind of files")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    subjects = [one for one in SUBJECTS if given.only in (None, one.name)]
    damaged: dict[str, Counter[str]] = {}
    edited: dict[str, Counter[str]] = {}
    faults = []
    for subject in subjects:
        each = given.files // len(subjects), given.edits // len(subjects)
        with tempfile.TemporaryDirectory() as home:
            for how, outcome, error in count(subject, *each, given.seed, Path(home)):
                table = edited if how.startswith("edited") else damaged
                table.setdefault(subject.name, Counter())[outcome] += 1
                if outcome in ("raw", "silent") or outcome == "in use":
                    faults.append(f"{outcome}: {subject.name}, {how}: {error[:300]}")
    report(damaged, ("refused", "harmless", "silent", "raw"))
    print()
    report(edited, ("refused", "harmless", "edited", "in use", "raw"))
    print(*faults, sep="\n")
    if given.json:
        given.json.write_text(json.dumps({"damaged": damaged, "edited": edited}, indent=1))
    return int(
        any(
            one[kind] for one in (*damaged.values(), *edited.values()) for kind in ("raw", "silent")
        )
    )


if __name__ == "__main__":
    sys.exit(main())
