"""Whoever waits for a compilation is told why, once."""

import itertools
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from pyrovae.distributions import compile_notice


@pytest.mark.parametrize("misses", [{}, {"kind": 1}])
def test_a_long_compilation_is_said_once(misses, monkeypatch, caplog):
    monkeypatch.setattr(compile_notice, "_PATIENCE", 0.0)
    compile_notice._say_once.cache_clear()
    function = SimpleNamespace(stats=SimpleNamespace(cache_misses=misses, cache_path="/a/folder"))
    for kind in ("a test", "another test") * 2:
        with compile_notice.said_if_compiled(function, (kind, len(misses))):
            time.sleep(0.1)
    said = [record.getMessage() for record in caplog.records if record.name == "pyrovae"]
    assert len(said) == len(misses)
    assert all("numba compiles" in words and "/a/folder" in words for words in said)


def test_what_is_compiled_apart_is_waited_for_apart(monkeypatch):
    pytest.importorskip("numba")
    from pyrovae.distributions import count_kernel

    kinds = []
    monkeypatch.setattr(
        count_kernel, "said_if_compiled", lambda run, kind: nullcontext(kinds.append(kind))
    )
    monkeypatch.setattr(count_kernel, "_compiled", lambda: lambda *arguments: None)
    x = torch.ones(2, 3)
    for theta, gate in itertools.product((torch.zeros(3), torch.zeros(2, 3)), (None, x)):
        for differentiable in (False, True):
            count_kernel.evaluate(x, theta, gate, x, differentiable)
    assert len(set(kinds)) == 8
