"""Gradients of tasks over two processes against one process with all rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from secondgram.denoiser import Denoiser
from secondgram.errors import InputError
from secondgram.training.gradients import TaskGradients, aggregate, combine, gram
from secondgram.training.parallel import ShardedGradients

RANKS = 2
# Every process: its part of each task's rows, and what comes of both parts together.
CODE = """
import sys
import torch
import torch.distributed as dist
from secondgram.denoiser import Denoiser
from secondgram.training.gradients import TaskGradients, aggregate
from secondgram.training.parallel import ShardedGradients

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt")
net = Denoiser(5, 7, embedding=6, widths=(8, 6, 4))
net.load_state_dict(given["weights"])
rows = given["rows"][rank]
found = TaskGradients(net, 3, "jac")
with found.rows(given["ends"][rank]):
    error = net(given["x"][rows], given["t"][rows], given["c"][rows]) - given["z"][rows]
    # Divided by the size of the whole batch.
    (error.square().sum() / given["z"].numel()).backward()
shards = ShardedGradients(found.J)
K = shards.gram()
g = shards.combine(aggregate(K, "pcgrad", order=given["order"]))
torch.save({"K": K, "g": g, "columns": shards.shard.shape[1]}, f"{folder}/made{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    net = Denoiser(5, 7, embedding=6, widths=(8, 6, 4), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    x, c, z = (torch.randn(10, width, generator=generator) for width in (5, 7, 5))
    t = torch.randint(1, 100, (10,), generator=generator).float()
    ends, order = [0, 4, 5, 10], torch.tensor([2, 0, 1])
    # One process has no row of the second task.
    given = {
        "weights": net.state_dict(),
        **{"x": x, "t": t, "c": c, "z": z, "order": order},
        "rows": [torch.tensor([0, 3, 4, 6, 7, 9]), torch.tensor([1, 2, 5, 8])],
        "ends": [[0, 2, 3, 6], [0, 2, 2, 4]],
    }
    torch.save(given, tmp_path / "given.pt")
    command = [sys.executable, "-c", CODE]
    started = [subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE) for rank in range(RANKS)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    made = [torch.load(tmp_path / f"made{rank}.pt") for rank in range(RANKS)]

    whole = TaskGradients(net, 3, "jac")
    with whole.rows(ends):
        (net(x, t, c) - z).square().mean().backward()
    K = gram(whole.J)
    for each in made:
        assert torch.equal(each["K"], made[0]["K"])
        assert torch.equal(each["g"], made[0]["g"])
        torch.testing.assert_close(each["K"], K, rtol=1e-6, atol=1e-6 * float(K.max()))
        torch.testing.assert_close(
            each["g"], combine(whole.J, aggregate(K, "pcgrad", order=order)), rtol=1e-4, atol=1e-6
        )
    assert sum(each["columns"] for each in made) >= whole.size


def test_without_a_process_group_it_is_refused() -> None:
    with pytest.raises(InputError, match="no process group"):
        ShardedGradients(torch.ones(2, 3))
    with pytest.raises(InputError, match="J is"):
        ShardedGradients(torch.ones(3))
