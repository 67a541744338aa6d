"""All mutants, by name."""

from __future__ import annotations

from sim.mutants import determinism, endings, finding, hearing, placing, promise, room, steps, telling, trust, variables
from sim.mutants.mutant import Mutant

MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant
    for module in (promise, steps, placing, finding, hearing, endings, trust, telling, room, variables, determinism)
    for mutant in module.MUTANTS
}
