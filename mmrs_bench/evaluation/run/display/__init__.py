"""What a run shows while it goes on, in its own terminal and in others."""
