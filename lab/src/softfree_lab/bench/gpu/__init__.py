"""``softfree-lab bench gpu``: all numbers of a GPU in ten minutes, from a plain copy of the project."""
