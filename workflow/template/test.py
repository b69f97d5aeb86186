"""${title}: oracle, identities, gradients, bad input, controls."""
