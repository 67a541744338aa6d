"""What must hold in every run: one module per letter, all of them in `wool.sim.invariants.table`."""
