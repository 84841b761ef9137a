"""The command line's experiment on images and other arrays."""
