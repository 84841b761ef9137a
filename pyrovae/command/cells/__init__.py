"""The command line's experiment on single-cell counts."""
