"""Any bytes give a value or the one named error: what is fuzzed, by whom, and what was found is kept in ``corpus``.

``targets.py`` names the targets; each is a function of bytes that returns, or raises what nobody had named.
``tests/unit/test_fuzz.py`` tries the corpus and Hypothesis's bytes on them; ``nox -s fuzz`` lets atheris search.
"""
