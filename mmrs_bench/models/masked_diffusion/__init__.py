"""Parts of masked diffusion on windows: the transformer, random crops, initial values and schedules."""
