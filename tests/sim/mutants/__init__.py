"""Planted bugs: small changes of the production code, each of which the simulator must find.

A simulator can look busy and find nothing. So every invariant is shown able to fail: by a mutant, which is
applied to the source of a module while a fresh interpreter imports it, and never to a file.
"""
