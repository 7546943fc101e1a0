"""The denoiser as a module: its size, its initial weights, and checkpoints from outside."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secondgram import Denoiser
from secondgram.errors import InputError


def _small(**options: Any) -> Denoiser:
    return Denoiser(5, 7, embedding=6, widths=(8, 6, 4), **options)


def _seeded(seed: int) -> Denoiser:
    return _small(generator=torch.Generator().manual_seed(seed))


def _same(left: Denoiser, right: Denoiser) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_paper_has_its_number_of_parameters() -> None:
    assert sum(value.numel() for value in Denoiser(769, 783).parameters()) == 4_727_688


def test_parameters_have_the_names_of_the_published_checkpoints() -> None:
    blocks = [f"{way}{k}" for way in ("down", "up") for k in (1, 2, 3)]
    layers = ["time_embed.0", "time_embed.2", "cond_embed.0", "cond_embed.2", "out"]
    layers += [f"{name}.{part}" for name in blocks for part in ("ln", "imgFC", "embdFC", "imgOut", "embdOut", "outFC")]
    layers += [f"bot{k}.fc{j}" for k in (1, 2) for j in (1, 2)]
    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert set(_small().state_dict()) == expected


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("features", [1, 2, 7])
def test_the_output_has_the_shape_and_dtype_of_the_state(features: int, rows: int) -> None:
    net = Denoiser(features, 3, embedding=4, widths=(5, 4, 3))
    for dtype in (torch.float32, torch.float64):
        net = net.to(dtype)
        made = net(torch.ones(rows, features, dtype=dtype), torch.ones(rows), torch.ones(rows, 3, dtype=dtype))
        assert made.shape == (rows, features)
        assert made.dtype == dtype
        assert torch.isfinite(made).all()


def test_one_step_for_all_rows_is_that_step_in_every_row() -> None:
    net, x, c = _small(), torch.randn(4, 5), torch.randn(4, 7)
    assert torch.equal(net(x, 17, c), net(x, torch.full((4,), 17.0), c))
    assert torch.equal(net(x, 17.0, c), net(x, torch.tensor(17), c))
    assert not torch.equal(net(x, 17.0, c), net(x, 18.0, c))


def test_zero_output_predicts_zero() -> None:
    assert not _small(zero_output=True)(torch.randn(3, 5), 4.0, torch.randn(3, 7)).any()
    assert _small()(torch.randn(3, 5), 4.0, torch.randn(3, 7)).all()


def test_the_generator_decides_the_weights() -> None:
    torch.manual_seed(1)
    first = _seeded(0)
    torch.manual_seed(2)
    assert _same(first, _seeded(0))
    assert not _same(first, _seeded(1))
    # The same spread as torch's own initial weights.
    bound = first.out.in_features**-0.5
    weight = first.out.weight.detach()
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.3)


def test_configuration_builds_the_same_shape() -> None:
    net = _seeded(0)
    again = Denoiser(**net.configuration)  # type: ignore[arg-type]
    again.load_state_dict(net.state_dict())
    assert _same(net, again)


@pytest.mark.parametrize(
    "change",
    [{"features": 0}, {"conditions": 0}, {"embedding": 0}, {"widths": (4, 4)}, {"widths": (4, 0, 4)}],
)
def test_sizes_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a denoiser of"):
        Denoiser(**{"features": 2, "conditions": 3, **change})


@pytest.mark.parametrize(
    ("x", "t", "c"),
    [
        (torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 6)),
        (torch.zeros(3, 5), torch.zeros(3), torch.zeros(2, 7)),
        (torch.zeros(3, 4), torch.zeros(3), torch.zeros(3, 7)),
        (torch.zeros(5), torch.zeros(1), torch.zeros(1, 7)),
        (torch.zeros(3, 5), torch.zeros(2), torch.zeros(3, 7)),
        (torch.zeros(3, 5), torch.zeros(3, 1), torch.zeros(3, 7)),
        (torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 7)),
        (torch.zeros(3, 5), torch.zeros(3), torch.zeros(3, 7).double()),
    ],
    ids=["conditions", "rows", "features", "vector", "steps", "steps as a column", "whole", "two dtypes"],
)
def test_inputs_of_a_wrong_shape_or_dtype_are_refused(x: Tensor, t: Tensor, c: Tensor) -> None:
    with pytest.raises(InputError, match="the denoiser got"):
        _small()(x, t, c)


def test_a_backend_that_is_not_here_is_refused() -> None:
    with pytest.raises(InputError, match="'quantum'"):
        _small(backend="quantum")(torch.zeros(1, 5), 0.0, torch.zeros(1, 7))


# -- checkpoints of the published code --------------------------------------------------------------------------------


def _saved(folder: Path, content: object) -> Path:
    path = folder / "checkpoint.pt"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_published_checkpoint_is_read_back(tmp_path: Path, dtype: torch.dtype) -> None:
    net = _seeded(3)
    path = _saved(tmp_path, {"model": net.to(dtype).state_dict(), "epoch": 12, "optimizer": {"lr": 0.1}})
    read = Denoiser.from_reference_checkpoint(path)
    assert _same(net.float(), read)
    assert read.configuration == net.configuration
    assert _same(read, Denoiser.from_reference_checkpoint(str(path)))


class _Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["top", "entry", "weight"])
@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle"])
def test_code_inside_a_checkpoint_never_runs(tmp_path: Path, writer: str, place: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "checkpoint.pt"
    bad = _Malicious(target)
    weights: dict[str, Any] = dict(_small().state_dict())
    content: Any = {
        "top": bad,
        "entry": {"model": weights, "extra": bad},
        "weight": {"model": weights | {"out.weight": bad}},
    }[place]
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(InputError, match="no readable checkpoint"):
        Denoiser.from_reference_checkpoint(path)
    assert not target.exists()
    # The file would have done it, had it been unpickled.
    if writer == "pickle":
        pickle.loads(path.read_bytes())
        assert target.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, share: float) -> None:
    path = _saved(tmp_path, {"model": _small().state_dict()})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        Denoiser.from_reference_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"\x00" * 100, b"hello\n", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02]q", b"c", b"\x80\x04\x95"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        Denoiser.from_reference_checkpoint(path)


def test_a_wrong_byte_is_refused_or_read_and_never_another_error(tmp_path: Path) -> None:
    path = _saved(tmp_path, {"model": Denoiser(1, 1, embedding=1, widths=(1, 1, 1)).state_dict()})
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(content), (150,), generator=generator).tolist():
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        with contextlib.suppress(InputError):
            Denoiser.from_reference_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, {"model": [torch.ones(1)]}, {"model": {"out.weight": 3}}])
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(InputError, match="no entry 'model'"):
        Denoiser.from_reference_checkpoint(_saved(tmp_path, content))


def _without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize("kind", ["empty", "missing", "extra", "renamed", "shape", "scalar", "vector", "no rows"])
def test_wrong_names_or_shapes_are_refused(tmp_path: Path, kind: str) -> None:
    weights = _small().state_dict()
    changed = {
        "empty": {},
        "missing": _without(weights, "up2.embdOut.bias"),
        "extra": {**weights, "more.weight": torch.ones(1)},
        "renamed": {f"module.{name}": value for name, value in weights.items()},
        "shape": {**weights, "bot1.fc1.weight": torch.ones(4, 5)},
        "scalar": {**weights, "out.weight": torch.tensor(1.0)},
        "vector": {**weights, "cond_embed.0.weight": torch.ones(6)},
        "no rows": {**weights, "out.weight": torch.ones(0, 0)},
    }[kind]
    with pytest.raises(InputError):
        Denoiser.from_reference_checkpoint(_saved(tmp_path, {"model": changed}))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    weights: dict[Any, Tensor] = {**_small().state_dict(), 3: torch.ones(1)}
    with pytest.raises(InputError):
        Denoiser.from_reference_checkpoint(_saved(tmp_path, {"model": weights}))


def test_an_absent_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(InputError, match="there is no such file"):
            Denoiser.from_reference_checkpoint(path)
