"""`pyrovae fit` on images and other arrays."""
