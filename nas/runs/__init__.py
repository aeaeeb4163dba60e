"""The life of a run: its folder, its checkpoints, signals."""
