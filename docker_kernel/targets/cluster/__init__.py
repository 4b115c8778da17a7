"""What all clusters share: images pushed by digest, the spec as a secret, logs read on after a cut, and results."""
