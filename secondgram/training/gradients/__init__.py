"""Gradients of several tasks, and how they become one.

J (T, P) holds one gradient a row, K = J J^T their Gram matrix. A method turns K into weights w, the update is
g = w^T J and its norm sqrt(w^T K w). Projection of conflicting gradients (PCGrad, Yu et al. 2020) and the other methods
are additions of this library; gradient manipulation in the paper is the gate and the clip on the norm.
See docs/design.md#task-gradients.
"""

from ...ops.gradients import combine, gram
from .aggregation import METHODS, aggregate, cosine_matrix
from .engine import MODES, TaskGradients, task_gradients, task_jacobian
from .updates import gate_and_clip, gate_and_clip_on_device, step_on_device, write_gradients

__all__ = [
    "METHODS",
    "MODES",
    "TaskGradients",
    "aggregate",
    "combine",
    "cosine_matrix",
    "gate_and_clip",
    "gate_and_clip_on_device",
    "gram",
    "step_on_device",
    "task_gradients",
    "task_jacobian",
    "write_gradients",
]
