"""Learning the denoiser: tasks, gradients of tasks, the loop, and checkpoints."""
