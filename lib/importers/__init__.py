"""Other migration tools' directories made into migrations, one module a tool.

Each has `recognises(directory)`, and `read(directory)`, which returns a Layout.
"""
