"""What stands behind the command line: options, recipes, run folders, the main job and what it reports."""
