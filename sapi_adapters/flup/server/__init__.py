"""flup's servers, by its module names."""


class NoDefault:
    """Stands for an argument that was not given, where None means something."""
