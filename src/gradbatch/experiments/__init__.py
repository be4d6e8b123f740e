"""Tasks, models, the reference loop and the report: what the command line is made of.

The library never imports this package; it is the library's first user.
"""
