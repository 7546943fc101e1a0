"""A conditional Wasserstein GAN with gradient penalty: the generative peer of the paper."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ...diffusion.noise import Purpose
from ...imputation.model_data import People
from ...ops.noise import normals
from ...ops.row_tiles import one_thread
from .baseline import DrawnBaseline

LATENT, HIDDEN = 32, 256
STEPS, CRITIC_STEPS, BATCH = 1500, 5, 64
RATE, BETAS, PENALTY = 1e-4, (0.0, 0.9), 10.0


class WassersteinGAN(DrawnBaseline):
    """Generator and critic of two hidden layers, both told baseline, covariates and gap (Gulrajani et al. 2017).

    The generator makes the scaled follow-up from them and 32 normals. Optimiser, penalty and the five critic steps to
    one of the generator are those of the source; 1,500 generator steps on batches of 64. There is no validation. A cell
    that a pair does not know is hidden from the critic in what is made for that pair too.
    """

    def learn(self, X: np.ndarray, change: np.ndarray) -> None:
        with one_thread(), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            condition = torch.from_numpy(X).float()
            known = np.isfinite(change)
            # A feature that no pair knows is taught as unchanged.
            mask = torch.from_numpy(known | ~known.any(axis=0)).float()
            real = torch.from_numpy(X[:, : self.width] + np.where(known, change, 0.0)).float() * mask
            self.generator = _network(X.shape[1] + LATENT, self.width, nn.ReLU())
            critic = _network(X.shape[1] + self.width, 1, nn.LeakyReLU(0.2))
            optimisers = [torch.optim.Adam(net.parameters(), RATE, betas=BETAS) for net in (self.generator, critic)]
            for _ in range(STEPS):
                for _ in range(CRITIC_STEPS):
                    c, y, m = _batch(condition, real, mask)
                    with torch.no_grad():
                        made = self._generate(c) * m
                    loss = critic(torch.cat([made, c], 1)).mean() - critic(torch.cat([y, c], 1)).mean()
                    _step(optimisers[1], loss + PENALTY * _gradient_penalty(critic, y, made, c))
                c, _, m = _batch(condition, real, mask)
                _step(optimisers[0], -critic(torch.cat([self._generate(c) * m, c], 1)).mean())

    def _generate(self, condition: Tensor) -> Tensor:
        return self.generator(torch.cat([condition, torch.randn(len(condition), LATENT)], 1))

    def draw(
        self, people: People, draws: np.ndarray, seed: int, solver: str | None = None, steps: int | None = None
    ) -> np.ndarray:
        X = self.context.inputs(people)
        condition = torch.from_numpy(X).float()
        z = normals(people.keys, LATENT, seed=seed, purpose=Purpose.COMPONENTS, draws=draws)
        with one_thread(), torch.inference_mode():
            made = [self.generator(torch.cat([condition, torch.from_numpy(each)], 1)).numpy() for each in z]
        return self.context.original(np.stack(made).astype(float), people, X)


def _network(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), activation, nn.Linear(HIDDEN, HIDDEN), activation, nn.Linear(HIDDEN, outputs)
    )


def _batch(*tensors: Tensor) -> list[Tensor]:
    """The same random rows of each."""
    rows = torch.randint(len(tensors[0]), (BATCH,))
    return [each[rows] for each in tensors]


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _gradient_penalty(critic: nn.Module, real: Tensor, made: Tensor, condition: Tensor) -> Tensor:
    """Squared distance of the critic's gradient from length 1, between real and made visits."""
    share = torch.rand(len(real), 1)
    between = (share * real + (1.0 - share) * made).requires_grad_()
    value = critic(torch.cat([between, condition], 1)).sum()
    gradient = torch.autograd.grad(value, between, create_graph=True)[0]
    return (gradient.norm(dim=1) - 1.0).square().mean()
