"""`pyrovae fit` on single-cell counts."""
