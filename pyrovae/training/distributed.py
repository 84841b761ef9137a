"""A fit by several processes: what they tell each other, by torch.distributed.

gradient over the M rows of a minibatch = (1 / M) sum_r M_r g_r
                  g_r: the mean gradient over the M_r rows that process r reads

Every process holds the whole model and takes the same optimizer steps. After the backward pass the
gradients are averaged by all-reduce, in buckets. `DistributedDataParallel`, which does so during
the backward pass, cannot wrap every objective: it expects one forward of one module and then one
backward pass, while Pyro's ELBOs and accumulated minibatches make several; it gives each process
the same weight, while shares may differ by a row, or have none; and it averages the parameters of a
module, while `pyro.param` keeps some outside of all modules.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyrovae.data import Minibatches, Share, fingerprint
from pyrovae.programs import seed_streams

__all__ = ["Processes", "processes"]

_BUCKET = 25 * 2**20  # bytes that are sent together, as in DistributedDataParallel
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")  # what torchrun tells a process
_SPREAD = 0x9E3779B97F4A7C15  # odd, of 64 bits: products with it differ in all their bits


class Processes:
    """The processes of one fit; by default this one alone, which then tells nobody anything.

    Args:
        group: a process group of torch's, used by this fit only.

    Attributes:
        number: of this process, from 0.
        size: number of processes.
        rows: of the minibatch that this process is at: its weight in means over all processes.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        self.number = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)
        self.rows = 1

    @property
    def is_writer(self) -> bool:
        """Whether this process writes files and shows progress: the first one does."""
        return self.number == 0

    @property
    def share(self) -> Share:
        """What this process reads of the data."""
        return Share(self.number, self.size)

    # ----------------------------------------------------------------------------- numbers, objects
    def sums(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return list(numbers)
        return self.total(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._told(dist.all_gather_object, values, value, group=self.group)
        return values

    def first(self, words: str) -> str:
        """Return the words of the first process that has any."""
        if not any(self.sums([bool(words)])):
            return ""
        return next(filter(None, self.gathered(words)))

    def from_writer(self, make: Callable[[], Any]) -> Any:
        """Return what the first process makes, in all; an exception is raised in all too."""
        if self.size == 1:
            return make()
        made: list[Any] = [None, None]
        if self.is_writer:
            try:
                made[0] = make()
            except Exception as error:
                made[1] = error.with_traceback(None)
        self._told(dist.broadcast_object_list, made, group=self.group, group_src=0)
        if made[1] is not None:
            raise made[1]
        return made[0]

    def together(self, items: Iterable[Any], nothing: Any) -> Iterator[Any]:
        """Yield this process's items until those of all have ended, and `nothing` after its own."""
        items, end = iter(items), object()
        while True:
            item = next(items, end)
            if not any(self.sums([item is not end])):
                return
            yield nothing if item is end else item

    def check_data(self, *data: Minibatches | None) -> None:
        """Check that the processes were given the same data to divide, or each its own share.

        Data that are None must be so in all processes.

        Raises:
            ValueError: if they were not.
        """
        for part in data if self.size > 1 else ():
            if part is None:
                continue
            if len(set(self.gathered(part.divided))) > 1:
                raise ValueError(
                    "fit: some processes of the job were given arrays or a data set, and others an "
                    "iterable of minibatches. Pass data of the same kind in every process"
                )
            if part.divided:  # items of a data set may be drawn anew at each visit
                told = self.gathered((part.rows, part.fingerprint))
            else:
                told = self.gathered(fingerprint(part.first()))
            if part.divided and len(set(told)) > 1:
                raise ValueError(
                    "fit: the processes of the job were given different data, expected the same "
                    "arrays or data set in each, of which fit gives each process its share"
                )
            if not part.divided and len(set(told)) < self.size:
                raise ValueError(
                    "fit: the iterables of two processes begin with the same minibatch, expected "
                    "each over a share of its own: let it yield every WORLD_SIZE-th minibatch from "
                    "number RANK on (both are environment variables), or pass arrays or a Dataset"
                )

    # -------------------------------------------------------------------------------------- tensors
    def total(self, tensor: Tensor) -> Tensor:
        """Return a tensor after its sum over all processes was put into it."""
        self._told(dist.all_reduce, tensor, group=self.group)
        return tensor

    @torch.no_grad()
    def share_first(self, tensors: Sequence[Tensor]) -> None:
        """Copy the first process's tensors into those of all others.

        Raises:
            ValueError: if the processes have different ones, or two of them have theirs on one GPU.
        """
        if self.size == 1:
            return
        self._check_gpus(tensors)
        kinds = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in tensors]
        for number, others in enumerate(self.gathered(kinds)):
            if others != kinds:
                raise ValueError(
                    f"fit: the graph of process {number} has other tensors than that of process "
                    f"{self.number} ({len(others)} and {len(kinds)}, or of other shapes or types). "
                    "Build the same graph in every process"
                )
        for tensor in tensors:
            sent = tensor.detach().clone(memory_format=torch.contiguous_format)
            self._told(dist.broadcast, sent, group=self.group, group_src=0)
            tensor.copy_(sent)

    def _check_gpus(self, tensors: Sequence[Tensor]) -> None:
        """Check that no other process has tensors on a GPU of this one: NCCL refuses that."""
        gpus = self.gathered(sorted(_gpus(tensors)))
        for number, others in enumerate(gpus):
            for first in range(number):
                if set(others) & set(gpus[first]):
                    raise ValueError(
                        f"fit: the graphs of processes {first} and {number} are on the same GPU, "
                        "expected one of its own for each. Start as many processes as there are "
                        "GPUs, and move each graph to its own by "
                        "graph.to(f\"cuda:{os.environ['LOCAL_RANK']}\")"
                    )

    @torch.no_grad()
    def average_gradients(
        self, parameters: Sequence[Tensor], fraction: float, present: Sequence[float]
    ) -> None:
        """Replace gradients, means over the rows of a process, by the mean over all rows.

        Args:
            parameters: in the same order in each process.
            fraction: of all rows, that this process has.
            present: for each parameter, the number of processes in which it has a gradient.
        """
        found = [p for p, n in zip(parameters, present, strict=True) if n]
        for bucket in _buckets(found):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = self.total(torch.cat([grad.flatten() for grad in grads]).mul_(fraction))
            pieces = flat.split([p.numel() for p in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    # --------------------------------------------------------------------------------------- noise
    def reseed(self, seed: int, step: int, devices: list[int]) -> None:
        """Begin the random stream of a step in this process; one process alone keeps its stream.

        It is a function of seed, step and process, so that a checkpoint need not hold the streams
        of all processes, and another number of them may continue.
        """
        if self.size > 1:
            place = step * self.size + self.number
            seed_streams((seed + 1 + place * _SPREAD) % 2**64, devices)

    def _told(self, tell: Callable[..., object], *content: Any, **more: Any) -> None:
        try:
            tell(*content, **more)
        except RuntimeError as error:
            raise ConnectionError(
                f"fit: process {self.number} lost the other processes of the job: one of them "
                "ended or failed, and its own error says why"
            ) from error


@contextmanager
def processes() -> Iterator[Processes]:
    """Context with the processes of the job that this one belongs to, for one fit.

    A job is one of `torchrun`, or any in which torch's default process group has been made. After
    an error the connections are closed, so that the other processes fail too and wait for nothing.
    """
    if not _in_job():
        yield Processes()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if not dist.is_initialized():
        _use_own_device()
        dist.init_process_group(backend)
        atexit.register(_leave_job)
    if dist.get_world_size() == 1:
        yield Processes()
        return
    found = Processes(dist.new_group(backend=backend))
    try:
        yield found
        with suppress(RuntimeError):  # nobody leaves while another still reads
            dist.barrier(found.group)
    finally:
        group, found.group = found.group, None
        dist.destroy_process_group(group)
        del group  # the connections live as long as the object


def _in_job() -> bool:
    if not dist.is_available():
        return False
    told = all(name in os.environ for name in _ADDRESS)
    return dist.is_initialized() or (told and int(os.environ["WORLD_SIZE"]) > 1)


def _use_own_device() -> None:
    """Make the CUDA device of this process's number on the machine the current one."""
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())


def _gpus(tensors: Sequence[Tensor]) -> set[str]:
    """Return what identifies the GPUs on which tensors lie, wherever a process counts from."""
    indices = {tensor.get_device() for tensor in tensors if tensor.device.type == "cuda"}
    return {str(torch.cuda.get_device_properties(index).uuid) for index in indices}


def _leave_job() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the tensors in lists of one device and type, of bounded size."""
    kinds = sorted({(str(t.device), str(t.dtype)) for t in tensors})
    for kind in kinds:
        bucket, size = list[Tensor](), 0
        for tensor in tensors:
            if (str(tensor.device), str(tensor.dtype)) != kind:
                continue
            if bucket and size + tensor.nbytes > _BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        if bucket:
            yield bucket
