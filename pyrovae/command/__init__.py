"""The command line: options become an experiment, which is trained, measured and reported.

cli -> options -> fit -> experiment (images or cells) -> figures -> report
"""
