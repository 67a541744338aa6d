"""How fast wool is: every figure beside a yardstick that is measured in the same run. See README.md.

``python -m bench`` from the project's root, or ``nox -s bench``. Nothing here is part of the library, and
the library knows nothing of it.
"""
